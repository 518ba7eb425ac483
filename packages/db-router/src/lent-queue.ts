import type { RouterClient } from './router-client.js'

/** One thing that a borrower asks of its connection. */
export interface Work {
  /** Sends it; called when nothing else is under way. */
  readonly run: () => void
  /** It keeps the connection until the borrower ends it, as a cursor or COPY does. */
  readonly open: boolean
}

/** How long a connection may be kept by a cursor or COPY that its borrower left open, in milliseconds. */
const OPEN_AFTER_RELEASE = 2_000

/**
 * What a borrower asks of a lent connection, one thing after the other, as the driver's own client does it: cursors, query
 * streams and COPY need the connection to themselves, and what the router sends must be answered before them.
 *
 *     idle --push--> busy --(the connection is ready)--> the next in line, or idle
 *
 * A connection that ends is always ready: whatever is still in line then fails, one after the other.
 */
export class LentQueue {
  readonly #client: RouterClient
  readonly #line: Work[] = []
  #current: Work | undefined
  /** Something is under way, be it of the router's own. */
  #busy: boolean
  #whenIdle: (() => void) | undefined

  constructor(client: RouterClient) {
    this.#client = client
    this.#busy = !client.ready
    client.onIdle = () => this.#next()
  }

  push(work: Work): void {
    this.#line.push(work)
    if (!this.#busy) this.#next()
  }

  /** Calls back once, when nothing is under way any more. Nothing may be pushed after this. */
  finish(callback: () => void): void {
    if (!this.#busy) return this.#over(callback)
    this.#whenIdle = callback
    if (!this.#current?.open) return
    const left = new Error('The connection was released with a cursor or COPY left open')
    const timer = setTimeout(() => this.#client.destroy(left), OPEN_AFTER_RELEASE).unref()
    this.#whenIdle = () => {
      clearTimeout(timer)
      callback()
    }
  }

  #next(): void {
    const work = this.#line.shift()
    this.#current = work
    this.#busy = work !== undefined
    if (!work) {
      if (this.#whenIdle) this.#over(this.#whenIdle)
      return
    }
    work.run()
    // Nothing was sent, as when the statement is none: no answer will end it.
    if (this.#client.ready || this.#client.broken) process.nextTick(() => this.#sentNothing(work))
  }

  #sentNothing(work: Work): void {
    if (this.#current === work && (this.#client.ready || this.#client.broken)) this.#next()
  }

  #over(callback: () => void): void {
    this.#client.onIdle = undefined
    callback()
  }
}
