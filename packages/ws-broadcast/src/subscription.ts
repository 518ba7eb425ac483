import type { Connection } from './connection.js'
import { gapChannel } from './diagnostics.js'
import type { Frame } from './frame.js'
import type { Hub } from './hub.js'
import { MessageFrame } from './message-frame.js'
import { samePosition, START } from './position.js'
import { CLOSE, type GapReason, type Position } from './protocol.js'

/** Who gets a message, and in whose place. */
export interface Addressed {
  readonly conflateKey?: string | undefined
  /** The connection that does not get it. */
  readonly except?: string | undefined
}

/**
 * One connection in one channel. `live`: gets what the hub gets. `behind`: stands at `position` and reads its
 * way up to the hub, from memory or history, as fast as its client takes it.
 */
export class Subscription {
  state: 'joining' | 'live' | 'behind' | 'ended' = 'joining'
  /** Where the client stands; kept only while behind. */
  position: Position = START
  #catchingUp = false
  /** Messages were left out for being too slow; the client is told once it has drained. */
  #skipped = false
  #held: Map<string, Frame> | undefined

  constructor(
    readonly connection: Connection,
    readonly hub: Hub,
    /** Whether it is told who comes and goes. */
    readonly seesMembers: boolean
  ) {}

  /** A volatile message: sent if nothing waits for the client. */
  offer(message: Frame & Addressed): boolean {
    const { connection } = this
    if (this.state !== 'live' || connection.slow || message.except === connection.id) return false
    connection.push(message)
    return true
  }

  /** A message of the hub, which stood at `before`. */
  deliver(message: Frame & Addressed, before: Position): void {
    if (this.state !== 'live') return
    const { connection, hub } = this
    if (message.except === connection.id) return
    if (!connection.slow) {
      connection.push(message)
      return
    }
    switch (hub.rule.backpressure) {
      case 'resync':
        this.state = 'behind'
        this.position = before
        break
      case 'drop':
        this.#skipped = true
        break
      case 'conflate':
        // Presence events have no key: they are hints, and take no message's place.
        if (message.conflateKey !== undefined) this.#hold(message.conflateKey, message)
        break
      case 'disconnect':
        connection.close(CLOSE.SLOW, 'reading too slowly')
    }
  }

  /** The connection's buffer is empty again. */
  drained(): void {
    if (this.#skipped) {
      this.#skipped = false
      // What is held comes next: a gap after it would make the client drop it as old.
      const [oldest] = this.#held?.values() ?? []
      this.gap('slow', oldest instanceof MessageFrame ? oldest.before : this.hub.position)
    }
    for (const [key, frame] of this.#held ?? []) {
      if (this.connection.slow) return
      this.#drop(key, frame)
      this.connection.push(frame)
    }
    if (this.state === 'behind') void this.catchUp()
  }

  /** The client has left. */
  end(): void {
    this.state = 'ended'
    for (const [key, frame] of this.#held ?? []) this.#drop(key, frame)
  }

  /** A gap of this client alone. */
  gap(reason: GapReason, from: Position): void {
    this.tellGap(reason, from)
    gapChannel.publish({ channel: this.hub.channel, reason, sockets: 1 })
  }

  tellGap(reason: GapReason, { epoch, offset }: Position): void {
    this.connection.send({ type: 'gap', channel: this.hub.channel, reason, epoch, offset })
  }

  /** Starts at `position`, short of the hub's. */
  resumeAt(position: Position, messages: readonly MessageFrame[]): void {
    this.state = 'behind'
    this.position = position
    this.#pushAll(messages)
    void this.catchUp()
  }

  /**
   * Brings the subscription up to the hub and makes it live. Stops where the client does not keep up:
   * `drained` calls again. Stops too when Redis fails: the hub's repair calls again.
   */
  async catchUp(): Promise<void> {
    if (this.#catchingUp || this.state !== 'behind') return
    this.#catchingUp = true
    try {
      while (this.state === 'behind' && this.connection.open && !this.connection.slow) {
        if (samePosition(this.position, this.hub.position)) {
          this.state = 'live'
          return
        }
        const recent = this.hub.recent.after(this.position)
        if (recent) this.#pushAll(recent)
        else await this.#readOn()
      }
    } catch {
      this.hub.retryLater(this)
    } finally {
      this.#catchingUp = false
    }
  }

  async #readOn(): Promise<void> {
    const before = this.hub.position
    const page = await this.hub.readFrom(this.position)
    // The subscription may have ended while Redis answered.
    if ((this.state as string) !== 'behind') return
    if (page.gap) {
      this.position = page.from
      this.gap(page.gap, page.from)
    }
    if (page.messages.length > 0) {
      this.#pushAll(page.messages)
      return
    }
    // The log's end is ahead of the hub: a message is on its way, or the hub holds one that a failover lost.
    if (!samePosition(page.end, this.hub.position)) await this.hub.sync()
    const { position } = this.hub
    // Where the hub has moved on since, what it has delivered is still to come here.
    if (samePosition(position, before) || samePosition(position, page.end)) this.position = position
  }

  #pushAll(messages: readonly MessageFrame[]): void {
    for (const message of messages) {
      if (this.connection.slow) return
      if (this.hub.mayHaveLost(this.position, message)) this.gap('failover', this.position)
      if (message.except !== this.connection.id) this.connection.push(message)
      this.position = message
    }
  }

  /** Keeps the latest message of each key, of those that fit below the high-water mark the latest; one of each channel at least. */
  #hold(key: string, frame: Frame): void {
    this.#held ??= new Map()
    const held = this.#held
    const before = held.get(key)
    if (before) this.#drop(key, before)
    held.set(key, frame)
    this.connection.heldBytes += frame.bytes.length
    for (const [oldest, other] of held) {
      if (held.size === 1 || !this.connection.holdsTooMuch) return
      this.#drop(oldest, other)
      this.#skipped = true
    }
  }

  #drop(key: string, frame: Frame): void {
    this.#held?.delete(key)
    this.connection.heldBytes -= frame.bytes.length
  }
}
