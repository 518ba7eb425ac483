/**
 * Takes the arguments of the command out of an error of ioredis, which keeps them all: keys and values do not belong
 * in logs, nor with those who listen to errors; those of AUTH and HELLO are the password. Its name stays. The same for
 * the errors that it names as its causes. Returns the error.
 */
export function withoutArguments<E>(error: E): E {
  const { command, lastNodeError, previousErrors } = (error ?? {}) as {
    command?: { args?: unknown }
    lastNodeError?: unknown
    previousErrors?: unknown
  }
  if (typeof command === 'object' && command !== null) delete command.args
  if (lastNodeError !== undefined) withoutArguments(lastNodeError)
  if (Array.isArray(previousErrors)) previousErrors.forEach(withoutArguments)
  return error
}
