import { Backoff, withTimeout } from '@flotilla/core'
import type { Redis } from 'ioredis'
import { drop } from './dedicated-connection.js'
import { SilenceWatch } from './silence-watch.js'
import { groupBySlot } from './slots.js'
import { SubscriptionPump, type LinkChannel, type PumpListener } from './subscription-pump.js'

/** Why messages may have been missed. */
export type GapReason = 'connection-lost' | 'silent' | 'slot-moved' | 'probe-lost'

/** What a link reports to its owner. */
export interface LinkListener<Channel extends LinkChannel> extends Omit<PumpListener<Channel>, 'broken'> {
  message(wire: string, sharded: boolean, message: Buffer): void
  /** Nothing arrives any more; the link goes on trying by itself. */
  lost(reason: GapReason): void
  /** One attempt to connect has failed. */
  failed(error: unknown): void
}

export interface LinkOptions<Channel extends LinkChannel> {
  /** A connection that is not open yet and does not reconnect by itself; throws while no node is known. */
  create: () => Redis
  listener: LinkListener<Channel>
  /** On a Cluster a multi-channel SSUBSCRIBE must stay within one slot. */
  bySlot: boolean
  /** Time between the signs of life asked of the connection, in milliseconds. */
  heartbeat: number
  /** How long nothing at all may arrive while an answer is owed, in milliseconds. */
  heartbeatTimeout: number
}

const CONNECT_TIMEOUT = 3_000

/**
 * One connection that only subscribes. It holds a set of channels, keeps it subscribed through every loss of the connection, and
 * finds a connection that died silently by asking it for a sign of life. ioredis would resubscribe too, but does not
 * say when, nor notice silence.
 *
 * ```
 *             add()                connected                    lost, silent, or restart()
 *   idle ───────────► connecting ────────────► subscribing/live ──────────────────────────► pausing
 *                          ▲                                                                   │
 *                          └───────────────────────────────────────────────────────────────────┘
 * ```
 *
 * Channels come and go in every state; a new connection asks for all there are. `close()` ends it from any state.
 */
export class SubscriberLink<Channel extends LinkChannel> {
  readonly #options: LinkOptions<Channel>
  readonly #channels = new Set<Channel>()
  readonly #backoff = new Backoff({ firstMs: 50, maxMs: 1_000 })
  readonly #closing = new AbortController()
  #connection: Redis | undefined
  /** Exists while connected. */
  #pump: SubscriptionPump<Channel> | undefined
  #watch: SilenceWatch | undefined
  #running = false
  #verifying = false
  /** The last connection carried all there was to carry. */
  #wasWell = false
  /** Ends the connection. */
  #end: (() => void) | undefined
  #heartbeat: NodeJS.Timeout | undefined

  constructor(options: LinkOptions<Channel>) {
    this.#options = options
  }

  get size(): number {
    return this.#channels.size
  }

  get #closed(): boolean {
    return this.#closing.signal.aborted
  }

  /** Subscribes soon, or as soon as there is a connection; again if it is held already. */
  add(channel: Channel): void {
    this.#channels.add(channel)
    if (this.#pump) {
      this.#pump.ask(channel)
    } else if (!this.#running && !this.#closed) {
      this.#running = true
      void this.#run()
    }
  }

  remove(channel: Channel): void {
    if (this.#channels.delete(channel)) this.#pump?.leave(channel)
  }

  /** Drops the connection and makes a new one, for when it is known to be dead though it looks alive. */
  restart(reason: GapReason): void {
    if (!this.#pump) return
    this.#down(reason)
    this.#end?.()
  }

  close(): void {
    this.#closing.abort()
    this.#channels.clear()
    this.#disconnect()
    this.#end?.()
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing
    while (!this.#closed) {
      this.#wasWell = false
      let connection: Redis | undefined
      try {
        connection = this.#connection = this.#options.create()
        const ended = this.#watchEvents(connection)
        await withTimeout(Promise.race([connection.connect(), ended]), CONNECT_TIMEOUT, {
          signal,
          timeoutError: () => new Error('the subscriber did not connect in time')
        })
        if (connection.status !== 'ready') throw new Error('closed')
        this.#up(connection)
        await ended
      } catch (error) {
        if (!this.#closed) this.#options.listener.failed(error)
      }
      if (connection) drop(connection)
      if (this.#closed) return
      this.#down('connection-lost')
      // One that was lost before it carried everything would be lost again.
      if (this.#wasWell) this.#backoff.reset()
      else await this.#backoff.wait(signal).catch(() => {})
    }
  }

  /** Resolves once the connection is over, for whatever cause. */
  #watchEvents(connection: Redis): Promise<void> {
    const hear = (sharded: boolean) => (wire: Buffer, message: Buffer) => {
      // One that was given up may have read more than it has handed out.
      if (this.#connection === connection) this.#options.listener.message(wire.toString(), sharded, message)
    }
    connection.on('messageBuffer', hear(false))
    connection.on('smessageBuffer', hear(true))
    // A shard channel that the server took away: ioredis 6 says `moved`, 5 takes it for an error of its queue.
    connection.on('moved', () => this.#askShardedAgain(connection))
    connection.on('error', (error: Error) => {
      if (error.message.startsWith('Command queue state error')) this.#askShardedAgain(connection)
    })
    return new Promise((resolve) => {
      this.#end = resolve
      connection.once('close', resolve)
      connection.once('end', resolve)
    })
  }

  #up(connection: Redis): void {
    const { heartbeat, heartbeatTimeout, bySlot, listener } = this.#options
    this.#watch = new SilenceWatch(connection, heartbeatTimeout, () => this.#broken(connection))
    this.#pump = new SubscriptionPump(connection, this.#watch, bySlot, {
      acknowledged: (channels) => listener.acknowledged(channels),
      misplaced: (channels) => listener.misplaced(channels),
      refused: (channel, error) => listener.refused(channel, error),
      broken: () => this.#broken(connection)
    })
    for (const channel of this.#channels) this.#pump.ask(channel)
    this.#heartbeat = setInterval(() => void this.#verify(connection), heartbeat).unref()
  }

  #broken(connection: Redis): void {
    if (this.#connection === connection) this.restart('silent')
  }

  /**
   * Asks for a sign of life, and whether this node still serves its sharded channels: subscribing again to one that is held
   * changes nothing. One channel stands for its slot; those that are not acknowledged are all asked for.
   */
  async #verify(connection: Redis): Promise<void> {
    if (this.#verifying || this.#connection !== connection || !this.#pump || !this.#watch) return
    this.#verifying = true
    const channels = [...this.#channels]
    const sharded = this.#options.bySlot ? channels.filter((channel) => channel.sharded) : []
    for (const [first] of groupBySlot(sharded, ({ wire }) => wire).values()) this.#pump.ask(first!)
    for (const channel of channels) if (!channel.live) this.#pump.ask(channel)
    try {
      await this.#watch.track(connection.ping())
    } catch {
      this.#broken(connection)
    } finally {
      this.#verifying = false
    }
  }

  #askShardedAgain(connection: Redis): void {
    if (this.#connection !== connection) return
    for (const channel of this.#channels) if (channel.sharded) this.#pump?.ask(channel)
  }

  #down(reason: GapReason): void {
    this.#disconnect()
    // Before all were acknowledged, too: some of the channels may have been.
    this.#options.listener.lost(reason)
  }

  #disconnect(): void {
    clearInterval(this.#heartbeat)
    this.#wasWell ||= this.#pump?.idle === true
    this.#watch?.stop()
    this.#pump?.stop()
    this.#watch = undefined
    this.#pump = undefined
    this.#connection = undefined
    this.#verifying = false
  }
}
