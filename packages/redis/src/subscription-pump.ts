import type { Redis } from 'ioredis'
import type { SilenceWatch } from './silence-watch.js'
import { groupBySlot } from './slots.js'

/** A channel by its name on the wire. */
export interface LinkChannel {
  readonly wire: string
  readonly sharded: boolean
  /** Kept by the owner: acknowledged, and not lost since. */
  readonly live: boolean
}

/** What a pump reports. */
export interface PumpListener<Channel extends LinkChannel> {
  /** Redis has acknowledged these channels, for the first time or again. */
  acknowledged(channels: Channel[]): void
  /** The node does not serve these sharded channels, or no longer. */
  misplaced(channels: Channel[]): void
  /** Redis does not let this client have the channel; it is asked for again with each heartbeat. */
  refused(channel: Channel, error: unknown): void
  /** The connection does not work any more. */
  broken(error: unknown): void
}

/** Channels in one command. */
const CHUNK = 256
/** Channels asked for and not acknowledged yet: what a connection holds in memory for them, whatever is asked at once. */
const MAX_IN_FLIGHT = 2_048

/**
 * Subscribes and unsubscribes on one connection, in the order of the calls, with a bounded number of channels under way. Calls of
 * one turn of the event loop become few commands.
 *
 * ```
 *   ask() ──► waiting ──► in flight ──► acknowledged | refused | misplaced
 *               │                            │
 *   leave() ────┴─► (forgotten)  leave() ────┴──► leaving ──► in flight ──► (forgotten)
 * ```
 *
 * All that leave go before those that wait: a channel that was left may have been asked for again under the same name.
 */
export class SubscriptionPump<Channel extends LinkChannel> {
  readonly #connection: Redis
  readonly #watch: SilenceWatch
  readonly #bySlot: boolean
  readonly #listener: PumpListener<Channel>
  readonly #waiting = new Set<Channel>()
  readonly #leaving = new Set<Channel>()
  /** Sent to Redis on this connection, and not left since. */
  readonly #asked = new Set<Channel>()
  /** Sent and not answered yet. */
  readonly #underWay = new Set<Channel>()
  #inFlight = 0
  #scheduled = false
  #stopped = false

  /** @param bySlot on a Cluster, where a multi-channel SSUBSCRIBE must stay within one slot */
  constructor(connection: Redis, watch: SilenceWatch, bySlot: boolean, listener: PumpListener<Channel>) {
    this.#connection = connection
    this.#watch = watch
    this.#bySlot = bySlot
    this.#listener = listener
  }

  /** Everything that was asked for has been answered. */
  get idle(): boolean {
    return this.#inFlight === 0 && this.#waiting.size === 0 && this.#leaving.size === 0
  }

  /** Subscribes to a channel, or asks again for one that is held: that changes nothing, and its answer says whether it is held still. */
  ask(channel: Channel): void {
    if (this.#underWay.has(channel) && this.#asked.has(channel)) return
    this.#waiting.add(channel)
    this.#schedule()
  }

  leave(channel: Channel): void {
    this.#waiting.delete(channel)
    if (!this.#asked.delete(channel)) return
    this.#leaving.add(channel)
    this.#schedule()
  }

  /** The connection is over: nothing more is sent or reported. */
  stop(): void {
    this.#stopped = true
    this.#waiting.clear()
    this.#leaving.clear()
  }

  /** At the end of this turn of the event loop: many calls become few commands. */
  #schedule(): void {
    if (this.#scheduled || this.#stopped) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#pump()
    })
  }

  #pump(): void {
    if (this.#stopped) return
    for (const command of this.#commands(this.#take(this.#leaving))) void this.#unsubscribe(command)
    if (this.#leaving.size > 0) return
    for (const command of this.#commands(this.#take(this.#waiting))) void this.#subscribe(command)
  }

  /** As many as may be under way. */
  #take(from: Set<Channel>): Channel[] {
    const taken: Channel[] = []
    for (const channel of from) {
      if (this.#inFlight >= MAX_IN_FLIGHT) break
      // Left and asked for again while its first answer was under way, which must not be taken for the second.
      if (from === this.#waiting && this.#underWay.has(channel)) continue
      from.delete(channel)
      taken.push(channel)
      this.#inFlight++
    }
    return taken
  }

  #answered(channels: readonly Channel[]): void {
    for (const channel of channels) this.#underWay.delete(channel)
    this.#inFlight -= channels.length
    if (this.#waiting.size > 0 || this.#leaving.size > 0) this.#schedule()
  }

  async #subscribe(channels: Channel[]): Promise<void> {
    for (const channel of channels) {
      this.#asked.add(channel)
      this.#underWay.add(channel)
    }
    try {
      await this.#ask(channels)
    } catch (error) {
      if (!this.#stopped) this.#listener.broken(error)
    } finally {
      this.#answered(channels)
    }
  }

  /** @throws what says that the connection does not work; an answer of Redis goes to the listener */
  async #ask(channels: Channel[]): Promise<void> {
    const [first] = channels
    const wires = channels.map(({ wire }) => wire)
    try {
      await this.#watch.track(
        first!.sharded ? this.#connection.ssubscribe(...wires) : this.#connection.subscribe(...wires)
      )
    } catch (error) {
      if (!(error instanceof Error) || error.name !== 'ReplyError') throw error
      if (this.#stopped) return
      if (isRedirection(error)) this.#listener.misplaced(channels)
      // Redis refuses a whole command for one of its channels: the others must not suffer.
      else if (channels.length > 1) await Promise.all(channels.map((one) => this.#ask([one])))
      else this.#listener.refused(first!, error)
      return
    }
    if (!this.#stopped) this.#listener.acknowledged(channels.filter((one) => this.#asked.has(one)))
  }

  async #unsubscribe(channels: Channel[]): Promise<void> {
    const wires = channels.map(({ wire }) => wire)
    try {
      await this.#watch.track(
        channels[0]!.sharded
          ? this.#connection.sunsubscribe(...wires)
          : this.#connection.unsubscribe(...wires)
      )
    } catch (error) {
      // Redirected: the node no longer had it.
      if (!this.#stopped && !isRedirection(error)) this.#listener.broken(error)
    } finally {
      this.#answered(channels)
    }
  }

  /** The channels that go into one command each. */
  #commands(channels: readonly Channel[]): Channel[][] {
    const sharded = channels.filter((channel) => channel.sharded)
    const classic = channels.filter((channel) => !channel.sharded)
    const groups = this.#bySlot ? groupBySlot(sharded, ({ wire }) => wire).values() : [sharded]
    return [classic, ...groups].flatMap((group) => chunks(group))
  }
}

function chunks<T>(items: readonly T[]): T[][] {
  const result: T[][] = []
  for (let at = 0; at < items.length; at += CHUNK) result.push(items.slice(at, at + CHUNK))
  return result
}

function isRedirection(error: unknown): boolean {
  return error instanceof Error && /^(MOVED|ASK|CLUSTERDOWN|TRYAGAIN)\b/.test(error.message)
}
