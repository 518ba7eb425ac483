import type { ChannelRule } from './channel-rules.js'
import { deliverChannel, gapChannel, repairChannel } from './diagnostics.js'
import { readEnvelope, type Envelope } from './envelope.js'
import { Frame } from './frame.js'
import type { HistoryPage, HistoryReader } from './history.js'
import { MessageFrame } from './message-frame.js'
import { compareOffsets, samePosition, START } from './position.js'
import type { GapReason, Position } from './protocol.js'
import { RecentMessages } from './recent-messages.js'
import type { Addressed, Subscription } from './subscription.js'

/** Live messages held while history is read; more are dropped and read again. */
const MAX_PENDING = 2000
const RETRY = { first: 100, most: 2000 }

/**
 * One channel on this instance: takes its messages from Redis, puts them in order and hands each to the local
 * subscriptions. Every message names its predecessor, so a missing one shows at once and is read from
 * history, once for all local sockets.
 */
export class Hub {
  readonly subscriptions = new Set<Subscription>()
  readonly recent = new RecentMessages()
  position: Position = START
  /** Commands that are about to subscribe; they keep the hub alive. */
  joining = 0
  #pending: Envelope[] = []
  #overflowed = false
  #syncing: Promise<void> | undefined
  #again = false
  #started = false
  /** The connection to Redis was lost: what comes next may follow messages that never came. */
  #interrupted = false
  #closed = false
  #retries = new Set<NodeJS.Timeout>()

  constructor(
    readonly channel: string,
    readonly rule: ChannelRule,
    private readonly reader: HistoryReader
  ) {}

  /** Its log has an epoch and no message. */
  get empty(): boolean {
    return this.#started && this.rule.history !== undefined && this.position.offset === START.offset
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Finds where the log ends. Call it once Redis has acknowledged the subscription, so that nothing falls between. */
  async start(): Promise<void> {
    if (this.rule.history) this.position = await this.reader.end(this.channel)
    this.#started = true
    const pending = this.#pending
    this.#pending = []
    for (const envelope of pending) this.#take(envelope)
    // What was left out shows only when something follows it, which may be never.
    if (this.#overflowed) await this.sync()
  }

  /** Settles once no repair is under way. */
  async settled(): Promise<void> {
    while (this.#syncing) await this.#syncing
  }

  /** A message of Redis pub/sub. */
  receive(message: Buffer): void {
    const envelope = readEnvelope(message)
    if (!envelope) return
    const { kind, conflateKey, except, body } = envelope
    if (kind === 'm') this.#take(envelope)
    else if (kind === 'n') {
      this.#endInterruption()
      this.#fan(Object.assign(new Frame(body), { conflateKey, except }), this.position)
    } else if (kind === 'v') this.#fanVolatile(Object.assign(new Frame(body), { except }))
    else this.#tellOfMember(new Frame(body))
  }

  /** Nothing comes from Redis any more, until `repair`. */
  interrupted(): void {
    this.#interrupted = true
  }

  /** Reads on from a position for one subscription; what is news to the hub reaches everyone. */
  async readFrom(position: Position): Promise<HistoryPage> {
    const page = await this.reader.read(this.channel, position)
    if (!this.#syncing) {
      this.recent.prepend(page.messages, this.position)
      for (const message of page.messages) {
        if (this.#follows(message)) this.#deliver(message)
      }
    }
    return page
  }

  /** Messages may have been missed: reads what follows the last one, or says so where there is no history. */
  async repair(): Promise<void> {
    if (this.rule.history) await this.sync()
    else this.#endInterruption()
  }

  /** Reads history from where the hub stands until nothing is left. Goes on until it succeeds or the hub is closed. */
  sync(): Promise<void> {
    if (this.#syncing) {
      this.#again = true
      return this.#syncing
    }
    this.#syncing = this.#sync().finally(() => {
      this.#syncing = undefined
    })
    return this.#syncing
  }

  /** A subscription could not read from Redis: tries again after a while. */
  retryLater(subscription: Subscription): void {
    if (this.#closed) return
    const timer = setTimeout(() => {
      this.#retries.delete(timer)
      void subscription.catchUp()
    }, RETRY.first * 5)
    timer.unref()
    this.#retries.add(timer)
  }

  close(): void {
    this.#closed = true
    for (const timer of this.#retries) clearTimeout(timer)
    this.#retries.clear()
    this.#pending = []
  }

  async #sync(): Promise<void> {
    let delay = RETRY.first
    let repaired = 0
    do {
      this.#again = false
      this.#overflowed = false
      // What arrived before the read began is in what it returns, if it is in the log at all.
      const known = this.#pending.length
      let page: HistoryPage | undefined
      try {
        page = await this.reader.read(this.channel, this.position)
      } catch {
        if (this.#closed) return
        await this.#pause(delay)
        delay = Math.min(delay * 2, RETRY.most)
      }
      if (this.#closed) return
      if (page) repaired += this.#apply(page)
      this.#again ||= !page?.complete || this.#overflowed
      if (!this.#again) this.#again = !this.#drain(known)
    } while (this.#again)
    if (repaired > 0) repairChannel.publish({ channel: this.channel, messages: repaired })
  }

  #apply(page: HistoryPage): number {
    if (page.gap === 'trimmed' || page.gap === 'epoch') {
      this.recent.clear()
      this.position = page.from
      this.#gap(page.gap, page.from)
    }
    for (const message of page.messages) this.#deliver(message)
    return page.messages.length
  }

  /** Takes what arrived during a read; false where it shows another gap. */
  #drain(known: number): boolean {
    const pending = this.#pending
    this.#pending = []
    for (const [index, envelope] of pending.entries()) {
      if (this.#follows(envelope)) this.#deliver(new MessageFrame(envelope))
      else if (index >= known && !this.#isOld(envelope)) {
        this.#pending = pending.slice(index)
        return false
      }
    }
    return true
  }

  #take(envelope: Envelope): void {
    // The envelope shares memory with what Redis sent; it is copied into a frame once it is accepted.
    if (this.#started && !this.#syncing) this.#accept(envelope)
    else if (this.#pending.length < MAX_PENDING) this.#pending.push(envelope)
    else this.#overflowed = true
  }

  #accept(envelope: Envelope): void {
    if (this.#follows(envelope)) {
      this.#deliver(new MessageFrame(envelope))
    } else if (!this.#isOld(envelope)) {
      this.#pending.push(envelope)
      void this.sync()
    }
  }

  /** A message of another epoch needs a read from history: only that shows what lies between. */
  #follows({ previous, epoch }: { readonly previous: string; readonly epoch: string }): boolean {
    const { position } = this
    return previous === position.offset && (epoch === position.epoch || position.epoch === '')
  }

  #isOld({ epoch, offset }: Envelope): boolean {
    return epoch === this.position.epoch && compareOffsets(offset, this.position.offset) <= 0
  }

  #deliver(message: MessageFrame): void {
    const before = this.position
    if (samePosition(before, message)) return
    if (this.mayHaveLost(before, message)) this.#gap('failover', before)
    this.position = message
    this.recent.push(message)
    this.#fan(message, before)
  }

  /** Messages between two that follow each other may have been acknowledged and lost. */
  mayHaveLost(before: Position, message: Position): boolean {
    return !this.rule.durable && before.epoch !== '' && before.epoch !== message.epoch
  }

  #endInterruption(): void {
    if (!this.#interrupted) return
    this.#interrupted = false
    this.#gap('interrupted', START)
  }

  /** Of a message that only those get who take it now. */
  #fanVolatile(frame: Frame & Addressed): void {
    let sockets = 0
    for (const subscription of this.subscriptions) if (subscription.offer(frame)) sockets += 1
    this.#sayDelivered(frame, sockets)
  }

  #fan(frame: Frame & Addressed, before: Position): void {
    for (const subscription of this.subscriptions) subscription.deliver(frame, before)
    this.#sayDelivered(frame, this.subscriptions.size)
  }

  /** One has come or gone. */
  #tellOfMember(frame: Frame): void {
    let sockets = 0
    for (const subscription of this.subscriptions) {
      if (!subscription.seesMembers) continue
      subscription.deliver(frame, this.position)
      sockets += 1
    }
    this.#sayDelivered(frame, sockets)
  }

  #sayDelivered({ bytes }: Frame, sockets: number): void {
    if (deliverChannel.active) deliverChannel.publish({ channel: this.channel, sockets, bytes: bytes.length })
  }

  #gap(reason: GapReason, from: Position): void {
    let sockets = 0
    for (const subscription of this.subscriptions) {
      // Those behind read for themselves and find the gap, if it is one to them.
      if (subscription.state !== 'live') continue
      subscription.tellGap(reason, from)
      sockets += 1
    }
    if (sockets > 0) gapChannel.publish({ channel: this.channel, reason, sockets })
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#retries.delete(timer)
        resolve()
      }, ms)
      timer.unref()
      this.#retries.add(timer)
    })
  }
}
