import { startTimer } from './clock.js'
import type { Flight, Outcome } from './flight.js'

/** The flight has not ended in time: the old value is served. */
export const LATE = Symbol('late')

/**
 * Waits for a flight, but for Redis no longer than `redisMs`, and for the factory no longer than `softTimeout`, both from
 * now on. The flight itself goes on.
 */
export async function orLate(
  flight: Flight,
  waiting: Promise<Outcome>,
  { redisMs, softTimeout }: { redisMs: number; softTimeout: number | undefined }
): Promise<Outcome | typeof LATE> {
  let endTimer = (): void => undefined
  const late = new Promise<typeof LATE>((resolve) => {
    const factoryIsLate = (): void => resolve(LATE)
    const redisIsLate = (): void => {
      if (flight.phase === 'redis') resolve(LATE)
      else if (softTimeout !== undefined) {
        endTimer = startTimer(Math.max(0, softTimeout - redisMs), factoryIsLate)
      }
    }
    endTimer =
      softTimeout !== undefined && softTimeout < redisMs
        ? startTimer(softTimeout, factoryIsLate)
        : startTimer(redisMs, redisIsLate)
  })
  try {
    return await Promise.race([waiting, late])
  } finally {
    endTimer()
    waiting.catch(() => undefined)
  }
}
