/**
 * Takes the arguments of the command out of an error of ioredis, which keeps them all: keys and values do not belong
 * in logs, nor with those who listen to errors. Its name stays. Returns the error.
 */
export function withoutArguments<E>(error: E): E {
  const { command } = (error ?? {}) as { command?: { args?: unknown } }
  if (typeof command === 'object' && command !== null) delete command.args
  return error
}
