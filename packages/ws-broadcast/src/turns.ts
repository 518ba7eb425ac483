import type { Connection } from './connection.js'

/**
 * Carries out what one client asks of one channel in the order it was asked, however long the app takes to
 * allow it: a late leave to subscribe must not undo the client's leaving, nor one publish overtake another.
 */
export class Turns {
  /** The last turn of each channel that still waits for leave. */
  readonly #waiting = new WeakMap<Connection, Map<string, Promise<void>>>()

  /**
   * Calls `act`, at once where nothing has to be waited for.
   *
   * @param allow rejects where it may not be done; asked at once, beside those that were asked before
   */
  take<Result>(
    connection: Connection,
    channel: string,
    allow: (() => Promise<void>) | undefined,
    act: () => Result | Promise<Result>
  ): Result | Promise<Result> {
    if (!allow && !this.#waiting.get(connection)?.has(channel)) return act()
    return this.#wait(connection, channel, allow?.(), act)
  }

  async #wait<Result>(
    connection: Connection,
    channel: string,
    allowed: Promise<void> | undefined,
    act: () => Result | Promise<Result>
  ): Promise<Result> {
    const channels = this.#waiting.get(connection) ?? new Map<string, Promise<void>>()
    this.#waiting.set(connection, channels)
    const before = channels.get(channel)
    const settled = Promise.allSettled([before, allowed])
    let begin!: () => void
    const begun = new Promise<void>((resolve) => {
      begin = resolve
    })
    channels.set(channel, begun)
    let result: Result | Promise<Result>
    try {
      await settled
      await allowed
      result = act()
    } finally {
      // The next one goes on as soon as this one has begun: what it began comes first from here on.
      begin()
      if (channels.get(channel) === begun) channels.delete(channel)
    }
    return result
  }
}
