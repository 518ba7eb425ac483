import type { Command, Redis } from 'ioredis'

/** Members of ioredis that it does not publish. `test/internals.test.ts` fails by name if a new version moves one. */
interface CommandInternals {
  /** Cleared by ioredis when the command settles; while it is set, ioredis arms no timer of its own. */
  _commandTimeoutTimer?: NodeJS.Timeout
}

interface RedisInternals {
  /** Commands that were sent and not answered yet. */
  commandQueue: { readonly length: number }
  /** Arms the timer of `socketTimeout`. */
  setSocketTimeout: () => void
}

/** How often a command is given more time because the event loop was blocked when its time was over. */
const MAX_EXTENSIONS = 8

/**
 * Bounds a command, in place of ioredis. If its time is over while the event loop is blocked, its answer may have arrived and
 * not been read: the time that the loop was blocked is added, and what has arrived is read first. Does nothing for a
 * command that is bounded already.
 */
export function boundCommand(command: Command, ms: number): void {
  const internals = command as unknown as CommandInternals
  if (internals._commandTimeoutTimer === undefined) arm(command, internals, Math.max(1, ms), 0)
}

function arm(command: Command, internals: CommandInternals, ms: number, extensions: number): void {
  const due = performance.now() + ms
  internals._commandTimeoutTimer = setTimeout(() => {
    const lateMs = performance.now() - due
    if (lateMs > Math.max(ms / 8, 5) && extensions < MAX_EXTENSIONS) {
      return arm(command, internals, Math.min(lateMs, ms), extensions + 1)
    }
    setImmediate(() => {
      if (!command.isSettled) command.reject(new Error('Command timed out'))
    })
  }, ms)
}

/** Leaves the option `socketTimeout`, which copies of the connection inherit, without effect on this one. */
export function disableSocketTimeout(connection: Redis): void {
  ;(connection as unknown as RedisInternals).setSocketTimeout = () => {}
}

/** Whether a connection owes answers. */
export function owesAnswers(connection: Redis): boolean {
  return (connection as unknown as RedisInternals).commandQueue.length > 0
}
