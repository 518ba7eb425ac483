import { compareOffsets } from '../position.js'
import type { Position, ServerFrame } from '../protocol.js'
import type { MessageEvent } from './types.js'

/** Of the keys of one channel's messages the last are remembered. */
const MAX_KEYS = 1000

/** Where one reader of a channel stands, and what it has seen. */
export class Reader {
  /** The channel is read anew from an earlier position, for another reader. */
  #isRewound = false
  /** Of the last messages that had one, with their epoch and time of publishing. */
  readonly #keys = new Map<string, { epoch: string | undefined; at: number }>()

  constructor(public position: Position | undefined) {}

  /** The channel is read anew from elsewhere: what comes next may be what this reader has seen. */
  rewind(): void {
    this.#isRewound = this.position !== undefined
  }

  /** Stands where another one does. */
  follow(other: Reader): void {
    this.position = other.position
    this.#isRewound = other.#isRewound
  }

  /** What follows continues from here, unless this reader has seen it. */
  continueFrom(position: Position): void {
    if (!this.#isRewound || !this.#hasSeen(position)) this.position = position
  }

  /**
   * Moves on to a message; undefined if it has been seen.
   *
   * @param idempotencyTtl how long the server remembers a key, in milliseconds
   */
  accept(frame: Extract<ServerFrame, { type: 'message' }>, idempotencyTtl: number): MessageEvent | undefined {
    const { epoch, offset, token, key, from } = frame
    const position = epoch !== undefined && offset !== undefined ? { epoch, offset } : undefined
    if (position) {
      if (this.#hasSeen(position)) return undefined
      this.position = position
      this.#isRewound = false
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

  /** Offsets of one epoch can be compared. Those of one log can as well: epochs follow each other there. */
  #hasSeen({ epoch, offset }: Position): boolean {
    const at = this.position
    if (!at || (at.epoch !== epoch && !this.#isRewound)) return false
    return compareOffsets(offset, at.offset) <= 0
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
