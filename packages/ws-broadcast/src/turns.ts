import type { Connection } from './connection.js'

/** The client has gone: the answer has no reader, and what the command carried is dropped. One for all, since a stack keeps its frames alive. */
export const CLIENT_GONE = new Error('the client has gone')

/** One command that waits for the app's permission or for an earlier command to its channel. */
class Turn {
  /** Or refused: the app has answered. */
  permitted = false
  #refusal: { readonly error: unknown } | undefined
  #act: (() => unknown) | undefined
  readonly #resolve: (result: unknown) => void
  readonly #reject: (error: unknown) => void

  constructor(act: () => unknown, resolve: (result: unknown) => void, reject: (error: unknown) => void) {
    this.#act = act
    this.#resolve = resolve
    this.#reject = reject
  }

  permit(): void {
    this.permitted = true
  }

  refuse(error: unknown): void {
    this.permitted = true
    this.#refusal = { error }
  }

  begin(): void {
    const act = this.#act
    this.#act = undefined
    if (this.#refusal) return this.#reject(this.#refusal.error)
    try {
      this.#resolve(act?.())
    } catch (error) {
      this.#reject(error)
    }
  }

  /** Lets go of all that the command carries, however long the app takes to permit it. */
  abandon(): void {
    this.#act = undefined
    this.#reject(CLIENT_GONE)
  }
}

/**
 * Carries out what one client asks of one channel in the order it was asked, however long the app takes to
 * permit it: a late permission to subscribe must not undo the client's unsubscribe, nor one publish overtake another.
 */
export class Turns {
  /** The turns of each channel that wait, oldest first. */
  readonly #waiting = new WeakMap<Connection, Map<string, Turn[]>>()

  /**
   * Calls `act`, at once if there is nothing to wait for.
   *
   * @param allow rejects if it may not be done; asked at once, beside those that were asked before
   */
  take<Result>(
    connection: Connection,
    channel: string,
    allow: (() => Promise<void>) | undefined,
    act: () => Result | Promise<Result>
  ): Result | Promise<Result> {
    const waiting = this.#waiting.get(connection)?.get(channel)
    if (!allow && !waiting) return act()
    return new Promise<Result>((resolve, reject) => {
      const turn = new Turn(act, resolve as (result: unknown) => void, reject)
      this.#add(connection, channel, turn)
      if (allow) this.#ask(connection, channel, turn, allow)
      else turn.permit()
    })
  }

  /** The connection has ended: nothing that waits is carried out. */
  end(connection: Connection): void {
    const channels = this.#waiting.get(connection)
    this.#waiting.delete(connection)
    for (const turns of channels?.values() ?? []) for (const turn of turns) turn.abandon()
  }

  /** Apart from `take`: what waits for the app must not keep alive what the command carries. */
  #ask(connection: Connection, channel: string, turn: Turn, allow: () => Promise<void>): void {
    allow()
      .then(() => turn.permit())
      .catch((error: unknown) => turn.refuse(error))
      .finally(() => this.#advance(connection, channel))
  }

  #add(connection: Connection, channel: string, turn: Turn): void {
    let channels = this.#waiting.get(connection)
    if (!channels) {
      channels = new Map()
      this.#waiting.set(connection, channels)
    }
    const turns = channels.get(channel)
    if (turns) turns.push(turn)
    else channels.set(channel, [turn])
  }

  /** The next one goes on as soon as this one has begun: what it began comes first from here on. */
  #advance(connection: Connection, channel: string): void {
    const channels = this.#waiting.get(connection)
    const turns = channels?.get(channel)
    while (turns?.[0]?.permitted) turns.shift()!.begin()
    if (turns?.length === 0) channels!.delete(channel)
  }
}
