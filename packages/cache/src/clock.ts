const { timeOrigin } = performance

/**
 * Whole milliseconds since 1970 on a clock that only runs forward: it is set when the process starts, and ignores later
 * changes of the machine's clock. All times of entries in this process are of this clock.
 */
export function localNow(): number {
  return Math.floor(timeOrigin + performance.now())
}

/** The longest time that a timer of Node.js can be set to, in milliseconds: 24.8 days. */
export const MAX_TIMER_MS = 2 ** 31 - 1

/**
 * Calls `work` after `ms`, however long that is; never after `Infinity`. Keeps the process alive, since a caller waits.
 * @returns what ends it
 */
export function startTimer(ms: number, work: () => void): () => void {
  let timer: NodeJS.Timeout | undefined
  const arm = (left: number): void => {
    if (left === Number.POSITIVE_INFINITY) return
    timer =
      left > MAX_TIMER_MS ? setTimeout(() => arm(left - MAX_TIMER_MS), MAX_TIMER_MS) : setTimeout(work, left)
  }
  arm(ms)
  return () => clearTimeout(timer)
}

/** Reads of one turn of the event loop that may share one look at the clock. */
const READS_PER_LOOK = 64

/**
 * {@link localNow} as of this turn of the event loop, as libuv's own clock is. A look at the
 * clock costs more than a whole read from memory does, so reads of one turn share it; a loop
 * that never yields looks again every few reads.
 */
export class TurnClock {
  #now = 0
  #left = 0
  #armed = false
  readonly #endTurn = (): void => {
    this.#armed = false
    this.#left = 0
  }

  now(): number {
    if (this.#left-- > 0) return this.#now
    this.#left = READS_PER_LOOK
    if (!this.#armed) {
      this.#armed = true
      setImmediate(this.#endTurn).unref()
    }
    return (this.#now = localNow())
  }
}

const LEARN_EVERY_MS = 100

/**
 * The difference between the clock of Redis and ours, from replies that carry TIME: expiry is written in
 * the time of Redis, so that instances whose clocks disagree agree on what is fresh.
 */
export class RedisTime {
  #offset = 0
  #bestRoundTrip = Number.POSITIVE_INFINITY
  #learntAt = Number.NEGATIVE_INFINITY

  /** Whether it is time to be told again. */
  get due(): boolean {
    return performance.now() - this.#learntAt > LEARN_EVERY_MS
  }

  /** @param redisMs the time in a reply to a command sent at `sentAt`, both in milliseconds */
  learn(redisMs: number, sentAt: number): void {
    this.#learntAt = performance.now()
    const roundTrip = localNow() - sentAt
    // Quick replies tell the most; slowly forget the best so that a clock that was set is noticed.
    this.#bestRoundTrip = Math.min(this.#bestRoundTrip * 1.05 + 0.05, 1e9)
    if (roundTrip > this.#bestRoundTrip) return
    this.#bestRoundTrip = roundTrip
    const offset = redisMs - (sentAt + roundTrip / 2)
    // Below a few milliseconds the difference is the network's jitter, not the clocks'.
    this.#offset = Math.abs(offset) < 5 ? 0 : offset
  }

  toLocal(redisMs: number): number {
    return redisMs - this.#offset
  }

  toRedis(localMs: number): number {
    return localMs + this.#offset
  }
}
