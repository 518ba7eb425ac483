import { detached } from './detached.js'

/** In how many turns of the event loop, at least, a period is counted. */
const TURNS = 8
/** Longest time that one turn counts for, in milliseconds, however long the period is. */
const LONGEST_TURN_MS = 500

/** A pending deadline in the list of its queue. */
interface Entry {
  /** On the clock of the queue, in milliseconds. */
  due: number
  readonly expire: () => void
  earlier: Entry | undefined
  later: Entry | undefined
  pending: boolean
}

/**
 * A period after which the other side counts as late, if it has not answered by then. Only time in which the event loop
 * turned counts, since nothing can arrive while it is blocked. Each turn counts for at most an eighth of the period, so a
 * blocked loop, a suspended process or a long garbage collection costs at most that much.
 *
 * ```
 *            touch(): the period begins anew
 *              ┌──────┐
 *              ▼      │
 *   new ──► pending ──┴──► expired   the period is over: calls `expire`, once
 *              │
 *              └─────────► cancelled
 * ```
 *
 * A deadline never expires before what had arrived by then has been read: it waits for the poll phase of its turn, and if the
 * loop was blocked just before, for one more turn. It does not keep the process alive.
 */
export class Deadline {
  readonly #queue: DeadlineQueue | undefined
  readonly #entry: Entry

  /**
   * @param ms the period in milliseconds; with `Infinity` it never expires
   * @param expire must not throw; runs outside the AsyncLocalStorage context of the caller
   */
  constructor(ms: number, expire: () => void) {
    this.#entry = { due: 0, expire, earlier: undefined, later: undefined, pending: true }
    this.#queue = ms === Number.POSITIVE_INFINITY ? undefined : DeadlineQueue.of(ms)
    this.#queue?.add(this.#entry)
  }

  /** False once it has expired or was cancelled. */
  get pending(): boolean {
    return this.#entry.pending
  }

  /** A sign of life: the period begins anew. Does nothing when the deadline is over. */
  touch(): void {
    if (!this.#entry.pending || !this.#queue) return
    this.#queue.remove(this.#entry)
    this.#queue.add(this.#entry)
  }

  /** Ends it without calling `expire`. */
  cancel(): void {
    if (!this.#entry.pending) return
    this.#entry.pending = false
    this.#queue?.remove(this.#entry)
  }
}

/**
 * All pending deadlines of one period, with one timer: the first to begin is the first to be late, so adding and removing
 * cost the same however many there are. The clock of the queue advances with each tick of the timer, by at most one step.
 */
class DeadlineQueue {
  static readonly #queues = new Map<number, DeadlineQueue>()

  static of(ms: number): DeadlineQueue {
    // Not negative, and NaN counts as no time at all.
    const period = ms > 1 ? ms : 1
    let queue = this.#queues.get(period)
    if (!queue) this.#queues.set(period, (queue = new DeadlineQueue(period)))
    return queue
  }

  readonly #ms: number
  readonly #stepMs: number
  /** The clock: milliseconds in which the loop turned. */
  #time = 0
  /** When the clock last advanced, by `performance.now()`. */
  #advancedAt = 0
  #first: Entry | undefined
  #last: Entry | undefined
  #ticking = false
  /** What the running timer was set to. */
  #delay = 0
  /** The loop was blocked when a deadline became due; the next tick decides. */
  #waitsOneTurn = false
  readonly #tick = (): void => this.#advance()
  readonly #expire = (): void => this.#expireDue()

  constructor(ms: number) {
    this.#ms = ms
    this.#stepMs = Math.min(LONGEST_TURN_MS, Math.max(1, ms / TURNS))
  }

  add(entry: Entry): void {
    const now = performance.now()
    if (!this.#ticking) this.#advancedAt = now
    entry.due = this.#time + Math.min(now - this.#advancedAt, this.#stepMs) + this.#ms
    entry.earlier = this.#last
    if (this.#last) this.#last.later = entry
    else this.#first = entry
    this.#last = entry
    if (!this.#ticking) this.#arm(this.#stepMs)
  }

  remove(entry: Entry): void {
    if (entry.earlier) entry.earlier.later = entry.later
    else if (this.#first === entry) this.#first = entry.later
    if (entry.later) entry.later.earlier = entry.earlier
    else if (this.#last === entry) this.#last = entry.earlier
    entry.earlier = entry.later = undefined
  }

  #arm(delay: number): void {
    this.#ticking = true
    this.#delay = delay
    // Runs on when the queue empties: on a busy path the next deadline comes before the tick.
    detached(() => setTimeout(this.#tick, delay).unref())
  }

  #advance(): void {
    const now = performance.now()
    const elapsed = now - this.#advancedAt
    this.#advancedAt = now
    this.#time += Math.min(elapsed, this.#stepMs)
    const first = this.#first
    if (!first) return this.#stop()
    const left = first.due - this.#time
    if (left > 0) return this.#arm(Math.min(this.#stepMs, Math.max(1, left)))
    const wasBlocked = elapsed > this.#delay + this.#stepMs
    if (wasBlocked && !this.#waitsOneTurn) {
      this.#waitsOneTurn = true
      return this.#arm(this.#stepMs)
    }
    this.#waitsOneTurn = false
    // Timers come before what has arrived: let that in first.
    setImmediate(this.#expire)
  }

  #expireDue(): void {
    const until = this.#time
    for (let entry = this.#first; entry && entry.due <= until; entry = this.#first) {
      this.remove(entry)
      entry.pending = false
      entry.expire()
    }
    if (!this.#first) return this.#stop()
    this.#arm(Math.min(this.#stepMs, Math.max(1, this.#first.due - until)))
  }

  #stop(): void {
    this.#ticking = false
    this.#waitsOneTurn = false
    if (DeadlineQueue.#queues.get(this.#ms) === this) DeadlineQueue.#queues.delete(this.#ms)
  }
}
