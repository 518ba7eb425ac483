import { compareOffsets } from '../position.js'
import type { Position, ServerFrame } from '../protocol.js'
import type { MessageEvent } from './types.js'

/** Of the keys of one channel's messages the last are remembered. */
const MAX_KEYS = 1000

/** One channel as the client sees it: where it stands there, and what it has seen. */
export class Channel {
  /** Id of its last subscribe: the answer to an earlier one is not for this subscription. */
  asked = 0
  /** That subscribe has been confirmed. What comes on the channel before was for an earlier subscription, and comes again. */
  live = false
  handler: ((message: MessageEvent<never>) => void) | undefined
  /** Until it asks again. */
  retry: ReturnType<typeof setTimeout> | undefined
  /** Subscribes in a row that the server could not carry out. */
  failures = 0
  /** What the last `subscribe` of it returned: an earlier one's end is not its end. */
  holder: object | undefined
  readonly ready: Promise<void>
  #refuse!: (error: Error) => void
  #confirm!: () => void
  /** Of the last messages that had one, with their epoch and time of publishing. */
  readonly #keys = new Map<string, { epoch: string | undefined; at: number }>()

  constructor(public position: Position | undefined) {
    this.ready = new Promise<void>((resolve, reject) => {
      this.#confirm = resolve
      this.#refuse = reject
    })
    // Awaiting `ready` is up to the caller; the `error` event tells as well.
    this.ready.catch(() => undefined)
  }

  /** The server has confirmed the subscription: what follows continues from here. */
  begin({ epoch, offset }: Position): void {
    this.position = { epoch, offset }
    this.live = true
    this.failures = 0
    this.#confirm()
  }

  /** Nobody is in it any more. Where it has not been confirmed, `ready` tells why. */
  end(error: Error): void {
    clearTimeout(this.retry)
    this.#refuse(error)
  }

  /**
   * Moves on to a message; undefined where it has been seen.
   *
   * @param idempotencyTtl how long the server remembers a key, in milliseconds
   */
  accept(frame: Extract<ServerFrame, { type: 'message' }>, idempotencyTtl: number): MessageEvent | undefined {
    const { epoch, offset, token, key, from } = frame
    const position = epoch !== undefined && offset !== undefined ? { epoch, offset } : undefined
    if (position) {
      const at = this.position
      if (at?.epoch === epoch && compareOffsets(position.offset, at!.offset) <= 0) return undefined
      this.position = position
    }
    if (key !== undefined && this.#repeats(key, position, idempotencyTtl)) return undefined
    return {
      channel: frame.channel,
      data: frame.data,
      ...(from && { from }),
      ...(token !== undefined && { token }),
      ...(position && { position })
    }
  }

  /**
   * Whether a message is one that a failover lost after it was delivered, published again under its key. Within an
   * epoch the server lets none through twice, and one with a key it has forgotten is another message.
   */
  #repeats(key: string, position: Position | undefined, idempotencyTtl: number): boolean {
    const epoch = position?.epoch
    const at = position ? Number.parseInt(position.offset, 10) : Date.now()
    const seen = this.#keys.get(key)
    if (seen && at - seen.at < idempotencyTtl && (!position || epoch !== seen.epoch)) return true
    this.#keys.delete(key)
    this.#keys.set(key, { epoch, at })
    if (this.#keys.size > MAX_KEYS) this.#keys.delete(this.#keys.keys().next().value!)
    return false
  }
}
