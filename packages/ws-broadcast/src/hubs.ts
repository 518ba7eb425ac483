import type { RedisClient, Subscriber } from '@flotilla/redis'
import { isCluster } from '@flotilla/redis'
import type { ChannelKeys } from './channel-keys.js'
import type { ChannelRule } from './channel-rules.js'
import type { HistoryReader } from './history.js'
import { Hub } from './hub.js'

/** Channels repaired at the same time after a gap. */
const REPAIRS = 64
/** How long the last messages of a channel are kept for clients that come back, at least, in milliseconds. */
const RECENT = 30_000
/** Between two renewals of the epochs of channels that nothing was published to, in milliseconds. */
const KEEP_EPOCHS = 1_200_000

interface Entry {
  readonly hub: Hub
  readonly ready: Promise<void>
  isReady: boolean
  unsubscribe: (() => void) | undefined
}

/**
 * The channels with local members. Redis is told of each once, however many sockets are in it, and only some
 * time after the last has left, so that a page reload costs nothing.
 */
export class Hubs {
  readonly #entries = new Map<string, Entry>()
  /** Those without members, since when in `performance.now()`, longest first. */
  readonly #idle = new Map<Hub, number>()
  readonly #stopGap: () => void
  readonly #sweeper: NodeJS.Timeout
  readonly #ager: NodeJS.Timeout
  readonly #keeper: NodeJS.Timeout
  readonly #sharded: boolean
  #closed = false

  constructor(
    client: RedisClient,
    private readonly subscriber: Subscriber,
    private readonly keys: ChannelKeys,
    private readonly reader: HistoryReader,
    private readonly linger: number,
    recent = RECENT
  ) {
    this.#sharded = isCluster(client)
    this.#stopGap = subscriber.onGap((gap) => {
      // What was missed lies before the moment when messages flow again: earlier there is nothing to read.
      if (gap.recovered) void this.#repair(gap.channels)
      else for (const { hub } of this.#of(gap.channels)) hub.interrupted()
    })
    this.#sweeper = setInterval(() => this.#sweep(), Math.max(50, Math.min(1000, linger / 2)))
    this.#sweeper.unref()
    this.#ager = setInterval(() => {
      for (const { hub } of this.#entries.values()) hub.recent.age()
    }, recent)
    this.#ager.unref()
    this.#keeper = setInterval(() => void this.#keepEpochs(), KEEP_EPOCHS)
    this.#keeper.unref()
  }

  get size(): number {
    return this.#entries.size
  }

  /** Whether joining it asks nothing of Redis. */
  isReady(channel: string): boolean {
    return this.#entries.get(channel)?.isReady === true
  }

  find(channel: string): Hub | undefined {
    return this.#entries.get(channel)?.hub
  }

  /**
   * The channel's hub, in place and reading from Redis. The caller lowers `hub.joining` again when it has added
   * its subscription or given up.
   */
  async join(channel: string, rule: ChannelRule): Promise<Hub> {
    let entry = this.#entries.get(channel)
    if (!entry) {
      entry = this.#open(channel, rule)
      this.#entries.set(channel, entry)
    }
    const { hub } = entry
    hub.joining += 1
    this.#idle.delete(hub)
    try {
      await entry.ready
      await hub.settled()
      return hub
    } catch (error) {
      hub.joining -= 1
      throw error
    }
  }

  /** A subscription has left: the hub may go once nobody is in it. */
  left(hub: Hub): void {
    if (hub.closed || hub.subscriptions.size > 0 || hub.joining > 0) return
    this.#idle.delete(hub)
    this.#idle.set(hub, performance.now())
  }

  close(): void {
    this.#closed = true
    clearInterval(this.#sweeper)
    clearInterval(this.#ager)
    clearInterval(this.#keeper)
    this.#stopGap()
    for (const entry of this.#entries.values()) this.#drop(entry)
    this.#entries.clear()
    this.#idle.clear()
  }

  #open(channel: string, rule: ChannelRule): Entry {
    const hub = new Hub(channel, rule, this.reader)
    const start = async (): Promise<void> => {
      try {
        const unsubscribe = await this.subscriber.subscribe(
          this.keys.pubsub(channel),
          (message) => hub.receive(message),
          { sharded: this.#sharded }
        )
        if (hub.closed || this.#closed) unsubscribe()
        else entry.unsubscribe = unsubscribe
        await hub.start()
        entry.isReady = true
      } catch (error) {
        // The next one who subscribes tries afresh.
        this.#drop(entry)
        if (this.#entries.get(channel) === entry) this.#entries.delete(channel)
        throw error
      }
    }
    const entry: Entry = { hub, unsubscribe: undefined, isReady: false, ready: Promise.resolve().then(start) }
    entry.ready.catch(() => undefined)
    return entry
  }

  #drop(entry: Entry): void {
    entry.hub.close()
    entry.unsubscribe?.()
    entry.unsubscribe = undefined
  }

  #sweep(): void {
    const before = performance.now() - this.linger
    for (const [hub, since] of this.#idle) {
      if (since > before) return
      this.#idle.delete(hub)
      const entry = this.#entries.get(hub.channel)
      if (entry?.hub !== hub) continue
      this.#drop(entry)
      this.#entries.delete(hub.channel)
    }
  }

  #of(pubsubChannels: readonly string[]): Entry[] {
    return pubsubChannels.flatMap((name) => this.#entries.get(this.keys.channelOf(name)) ?? [])
  }

  /** Renews the epochs of channels that nothing was published to; one that is another now is a gap. */
  async #keepEpochs(): Promise<void> {
    const empty = [...this.#entries.values()].filter(({ hub }) => hub.empty)
    for (let from = 0; from < empty.length && !this.#closed; from += REPAIRS) {
      const part = empty.slice(from, from + REPAIRS)
      await Promise.allSettled(
        part.map(async ({ hub }) => {
          const { epoch } = await this.reader.end(hub.channel)
          if (!hub.closed && epoch !== hub.position.epoch) await hub.sync()
        })
      )
    }
  }

  async #repair(pubsubChannels: readonly string[]): Promise<void> {
    const queue = this.#of(pubsubChannels)
    const work = async (): Promise<void> => {
      for (let entry = queue.pop(); entry; entry = queue.pop()) {
        await entry.ready.catch(() => undefined)
        if (!entry.hub.closed) await entry.hub.repair()
      }
    }
    await Promise.all(Array.from({ length: Math.min(REPAIRS, queue.length) }, work))
  }
}
