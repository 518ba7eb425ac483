import { compareOffsets } from '../position.js'
import type { Position, ServerFrame } from '../protocol.js'
import type { MessageEvent } from './types.js'

/** A publish is repeated within seconds, if at all. */
const MAX_KEYS = 1000

/** One channel as the client sees it: where it stands there, and what it has seen. */
export class Channel {
  /** Id of its last subscribe: the answer to an earlier one is not for this subscription. */
  asked = 0
  /** That subscribe has been confirmed. What comes on the channel before was for an earlier subscription, and comes again. */
  live = false
  handler: ((message: MessageEvent<never>) => void) | undefined
  readonly ready: Promise<void>
  refuse!: (error: Error) => void
  #confirm!: () => void
  /** Of the last messages that had one. */
  readonly #keys = new Set<string>()

  constructor(public position: Position | undefined) {
    this.ready = new Promise<void>((resolve, reject) => {
      this.#confirm = resolve
      this.refuse = reject
    })
    // Awaiting `ready` is up to the caller; the `error` event tells as well.
    this.ready.catch(() => undefined)
  }

  /** The server has confirmed the subscription: what follows continues from here. */
  begin({ epoch, offset }: Position): void {
    this.position = { epoch, offset }
    this.live = true
    this.#confirm()
  }

  /** Moves on to a message; undefined where it has been seen. */
  accept(frame: Extract<ServerFrame, { type: 'message' }>): MessageEvent | undefined {
    const { epoch, offset, token, key } = frame
    const position = epoch !== undefined && offset !== undefined ? { epoch, offset } : undefined
    if (position) {
      const at = this.position
      if (at?.epoch === epoch && compareOffsets(position.offset, at!.offset) <= 0) return undefined
      this.position = position
    }
    if (key !== undefined) {
      if (this.#keys.has(key)) return undefined
      this.#keys.add(key)
      if (this.#keys.size > MAX_KEYS) this.#keys.delete(this.#keys.values().next().value!)
    }
    return {
      channel: frame.channel,
      data: frame.data,
      ...(token !== undefined && { token }),
      ...(position && { position })
    }
  }
}
