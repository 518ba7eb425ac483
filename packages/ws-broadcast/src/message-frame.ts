import type { Envelope } from './envelope.js'
import { Frame } from './frame.js'
import type { Position } from './protocol.js'

/** A `message` frame with its place in the channel's log. */
export class MessageFrame extends Frame implements Position {
  readonly epoch: string
  readonly offset: string
  /** The offset of the message before it. */
  readonly previous: string
  readonly conflateKey: string
  readonly except: string | undefined

  constructor(envelope: Envelope) {
    super(envelope.body)
    this.epoch = envelope.epoch
    this.offset = envelope.offset
    this.previous = envelope.previous
    this.conflateKey = envelope.conflateKey
    this.except = envelope.except
  }

  /** Where a reader stands to whom it is the next. */
  get before(): Position {
    return { epoch: this.epoch, offset: this.previous }
  }
}
