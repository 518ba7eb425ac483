import { setTimeout as sleep } from 'node:timers/promises'
import { TimeoutError } from './errors.js'

export interface UntilOptions {
  /** Milliseconds before giving up; default 10,000. */
  timeout?: number
  /** Milliseconds between two looks; default 10, growing to 50 while nothing changes. */
  interval?: number
  /** What is being waited for, for the error: "waiting until …". */
  message?: string
}

/**
 * Waits for a condition instead of a time: calls `condition` until it returns something truthy, and returns
 * that. A condition that throws counts as not met yet; what it threw last is the `cause` when time is up.
 *
 * @throws FLOTILLA_TESTBED_ERR_TIMEOUT
 */
export async function until<T>(
  condition: () => T | Promise<T>,
  { timeout = 10_000, interval = 10, message = 'the condition holds' }: UntilOptions = {}
): Promise<Exclude<Awaited<T>, false | 0 | '' | null | undefined>> {
  const deadline = performance.now() + timeout
  let wait = interval
  let cause: unknown
  for (;;) {
    try {
      const result = await condition()
      if (result) return result as Exclude<Awaited<T>, false | 0 | '' | null | undefined>
      cause = undefined
    } catch (error) {
      cause = error
    }
    if (performance.now() >= deadline) {
      const error = new TimeoutError(timeout, message)
      if (cause !== undefined) error.cause = cause
      throw error
    }
    await sleep(wait)
    wait = Math.min(wait * 1.2, Math.max(50, interval))
  }
}
