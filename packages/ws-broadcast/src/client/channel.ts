import type { GapReason, Position, ServerFrame } from '../protocol.js'
import { BroadcastError } from './error.js'
import { Reader } from './reader.js'
import type { MessageEvent, Subscription } from './types.js'

/** Gets the messages of one subscription. */
export type MessageHandler = (message: MessageEvent<never>) => void

/** One subscription of the app. */
export class ChannelSubscription implements Subscription {
  readonly channel: string
  readonly ready: Promise<void>
  readonly reader: Reader
  readonly handler: MessageHandler | undefined
  /** The server has confirmed it. */
  isConfirmed = false
  readonly #leave: (subscription: ChannelSubscription) => void
  #refuse!: (error: Error) => void
  #confirm!: () => void

  constructor(
    channel: string,
    since: Position | undefined,
    handler: MessageHandler | undefined,
    leave: (subscription: ChannelSubscription) => void
  ) {
    this.channel = channel
    this.reader = new Reader(since)
    this.handler = handler
    this.#leave = leave
    this.ready = new Promise<void>((resolve, reject) => {
      this.#confirm = resolve
      this.#refuse = reject
    })
    // Awaiting `ready` is up to the caller; the `error` event reports a refusal as well.
    this.ready.catch(() => undefined)
  }

  get position(): Position | undefined {
    return this.reader.position
  }

  confirm(): void {
    this.isConfirmed = true
    this.#confirm()
  }

  /** If it has not been confirmed, `ready` rejects with this. */
  end(error: Error): void {
    this.#refuse(error)
  }

  unsubscribe(): void {
    this.#leave(this)
    this.end(new BroadcastError('unsubscribed', 'Unsubscribed before the server confirmed it'))
  }
}

/**
 * One channel on the wire, for all subscriptions of the app to it.
 *
 *     asked ── `subscribed` with the id of the last ask ──► live ── the connection ends, or a new ask ──► asked
 *
 * Asked: what comes on the channel was for an earlier ask, and comes again. `position` is what the next ask begins from.
 */
export class Channel {
  /** Id of the last ask: the answer to an earlier one is not for these subscriptions. */
  asked = 0
  isLive = false
  /** Until it asks again. */
  retry: ReturnType<typeof setTimeout> | undefined
  /** Asks in a row that the server could not carry out. */
  failures = 0
  position: Position | undefined
  readonly subscriptions = new Set<ChannelSubscription>()
  /** For the `message` event of the client: each message once, whatever the subscriptions read anew. */
  readonly #observer: Reader

  constructor(since: Position | undefined) {
    this.position = since
    this.#observer = new Reader(since)
  }

  /** Adds a subscription. True if the channel must be asked for from the position of that one. */
  add(subscription: ChannelSubscription): boolean {
    const { reader } = subscription
    const { position: since } = reader
    const mustAsk = since !== undefined && (this.isLive || this.subscriptions.size > 0)
    if (mustAsk) {
      this.position = since
      for (const other of this.#readers()) other.rewind()
    } else if (this.isLive) {
      reader.follow(this.#observer)
      subscription.confirm()
    }
    this.subscriptions.add(subscription)
    return mustAsk
  }

  /** The server has confirmed the last ask: what follows continues from here. */
  begin({ epoch, offset }: Position): void {
    this.isLive = true
    this.failures = 0
    this.position = { epoch, offset }
    for (const reader of this.#readers()) reader.continueFrom(this.position)
    for (const subscription of this.subscriptions) subscription.confirm()
  }

  /** Messages may be missing before the next one. */
  skip(reason: GapReason, { epoch, offset }: Position): void {
    this.position = { epoch, offset }
    for (const reader of this.#readers()) {
      // The log has lost what the readers have seen, and hands out offsets below theirs.
      if (reason === 'ahead') reader.position = this.position
      else reader.continueFrom(this.position)
    }
  }

  /**
   * Hands a message to each subscription that has not seen it.
   *
   * @returns what the `message` event gets; undefined if it has had it
   */
  deliver(
    frame: Extract<ServerFrame, { type: 'message' }>,
    idempotencyTtl: number,
    hand: (handler: MessageHandler, event: MessageEvent<never>) => void
  ): MessageEvent | undefined {
    const { epoch, offset } = frame
    if (epoch !== undefined && offset !== undefined) this.position = { epoch, offset }
    const observed = this.#observer.accept(frame, idempotencyTtl)
    // One that a handler adds begins after this message.
    const subscriptions = [...this.subscriptions]
    for (const subscription of subscriptions) {
      // A handler before this one may have ended it.
      if (!this.subscriptions.has(subscription)) continue
      const { reader, handler } = subscription
      const event = reader.accept(frame, idempotencyTtl)
      if (event && handler) hand(handler, event as MessageEvent<never>)
    }
    return observed
  }

  /**
   * The server has refused the last ask: ends what waits for it, or everything if nothing does. True if subscriptions are
   * left, which must be asked for again.
   */
  refuse(error: Error): boolean {
    const waiting = [...this.subscriptions].filter(({ isConfirmed }) => !isConfirmed)
    for (const subscription of waiting.length > 0 ? waiting : this.subscriptions) {
      this.subscriptions.delete(subscription)
      subscription.end(error)
    }
    const [left] = this.subscriptions
    this.position = left?.position
    return left !== undefined
  }

  /** The client is closed. */
  end(error: Error): void {
    clearTimeout(this.retry)
    for (const subscription of this.subscriptions) subscription.end(error)
  }

  *#readers(): Generator<Reader> {
    yield this.#observer
    for (const { reader } of this.subscriptions) yield reader
  }
}
