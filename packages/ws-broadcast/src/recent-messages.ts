import type { MessageFrame } from './message-frame.js'
import { samePosition } from './position.js'
import type { Position } from './protocol.js'

const MAX_MESSAGES = 256
const MAX_BYTES = 262_144

/**
 * The last messages of a channel, unbroken and in order, so that a client that was away for a moment is
 * served from memory and not from Redis.
 */
export class RecentMessages {
  #messages: MessageFrame[] = []
  #bytes = 0
  /** How many of them were there at the last {@link age}. */
  #aged = 0

  push(message: MessageFrame): void {
    this.#messages.push(message)
    this.#bytes += message.bytes.length
    while (this.#messages.length > MAX_MESSAGES || (this.#bytes > MAX_BYTES && this.#messages.length > 1)) {
      this.#shift()
    }
  }

  /** Lets go of what was there at the last call: of the many channels that are quiet for long, each would keep all it has room for. */
  age(): void {
    while (this.#aged > 0) this.#shift()
    this.#aged = this.#messages.length
  }

  /** Puts messages before the ones held, if they lead up to them. */
  prepend(messages: readonly MessageFrame[], end: Position): void {
    const last = messages.at(-1)
    if (!last) return
    const first = this.#messages[0]
    if (first ? first.previous !== last.offset : !samePosition(last, end)) return
    const held = this.#messages
    this.clear()
    for (const message of messages) this.push(message)
    for (const message of held) this.push(message)
  }

  /** What follows a position, or `undefined` where that is not known here. */
  after(position: Position): readonly MessageFrame[] | undefined {
    const messages = this.#messages
    for (let index = messages.length - 1; index >= 0; index -= 1) {
      if (samePosition(messages[index]!, position)) return messages.slice(index + 1)
    }
    return messages[0] && samePosition(messages[0].before, position) ? [...messages] : undefined
  }

  clear(): void {
    this.#messages = []
    this.#bytes = 0
    this.#aged = 0
  }

  #shift(): void {
    this.#bytes -= this.#messages.shift()!.bytes.length
    if (this.#aged > 0) this.#aged -= 1
  }
}
