import type { Redis } from 'ioredis'
import { within } from './deadline.js'
import { drop } from './dedicated-connection.js'
import { groupBySlot } from './slots.js'

/** Why messages may have been missed. */
export type GapReason = 'connection-lost' | 'silent' | 'slot-moved' | 'probe-lost'

/** A channel by its name on the wire. */
export interface LinkChannel {
  readonly wire: string
  readonly sharded: boolean
  /** Kept by the owner: acknowledged, and not lost since. */
  readonly live: boolean
}

/** What a link tells its owner. */
export interface LinkListener<Channel extends LinkChannel> {
  message(wire: string, sharded: boolean, message: Buffer): void
  /** Redis has acknowledged these channels, for the first time or again. */
  acknowledged(channels: Channel[]): void
  /** Nothing arrives any more; the link goes on trying by itself. */
  lost(reason: GapReason): void
  /** The node does not serve these sharded channels, or no longer. */
  misplaced(channels: Channel[]): void
  /** Redis does not let this client have the channel; the link asks again with each sign of life. */
  refused(channel: Channel, error: unknown): void
  /** One attempt to connect has failed. */
  failed(error: unknown): void
}

export interface LinkOptions<Channel extends LinkChannel> {
  /** A connection that is not open yet and does not reconnect by itself; throws while no node is known. */
  create: () => Redis
  listener: LinkListener<Channel>
  /** On a Cluster a multi-channel SSUBSCRIBE must stay within one slot. */
  bySlot: boolean
  /** Time between the signs of life asked of the connection, and how long one may take, in milliseconds. */
  heartbeat: number
  heartbeatTimeout: number
}

const CHUNK = 256
const CONNECT_TIMEOUT = 3_000
const MAX_BACKOFF = 1_000

/**
 * One connection that only subscribes. It holds a set of channels, keeps it subscribed through every loss of the
 * connection, and finds a connection that died without a word by asking it for a sign of life. ioredis would
 * resubscribe too, but does not say when, nor notice silence.
 */
export class SubscriberLink<Channel extends LinkChannel> {
  readonly #options: LinkOptions<Channel>
  readonly #channels = new Set<Channel>()
  /** Added or removed in this turn of the event loop, and not told to Redis yet. */
  readonly #changed = new Set<Channel>()
  #connection: Redis | undefined
  /** All that were wanted when the connection was made have been asked for. */
  #ready = false
  #closed = false
  #running = false
  #verifying = false
  #end: (() => void) | undefined
  #wake: (() => void) | undefined
  #heartbeat: NodeJS.Timeout | undefined

  constructor(options: LinkOptions<Channel>) {
    this.#options = options
  }

  get size(): number {
    return this.#channels.size
  }

  /** Subscribes at the end of this turn of the event loop, or as soon as there is a connection; again if it is held already. */
  add(channel: Channel): void {
    this.#channels.add(channel)
    if (this.#ready) {
      this.#change(channel)
    } else if (!this.#running && !this.#closed) {
      this.#running = true
      void this.#run()
    }
  }

  remove(channel: Channel): void {
    if (this.#channels.delete(channel) && this.#ready) this.#change(channel)
  }

  #change(channel: Channel): void {
    if (this.#changed.size === 0) setImmediate(() => this.#tell())
    this.#changed.add(channel)
  }

  /** Many that come or go together are few commands. */
  #tell(): void {
    const changed = [...this.#changed]
    this.#changed.clear()
    const connection = this.#connection
    // A new connection subscribes to all there are.
    if (!this.#ready || !connection) return
    const [added, removed] = [
      changed.filter((one) => this.#channels.has(one)),
      changed.filter((one) => !this.#channels.has(one))
    ]
    // First, since one that was removed may have been added under the same name.
    if (removed.length > 0) this.#unsubscribe(connection, removed)
    if (added.length > 0) this.#subscribe(connection, added).catch(() => this.restart('silent'))
  }

  /** Drops the connection and makes a new one, for when it is known to be dead though it looks alive. */
  restart(reason: GapReason): void {
    if (!this.#ready) return
    this.#down(reason)
    this.#end?.()
  }

  close(): void {
    this.#closed = true
    this.#connection = undefined
    this.#ready = false
    this.#channels.clear()
    this.#changed.clear()
    clearInterval(this.#heartbeat)
    this.#wake?.()
    this.#end?.()
  }

  async #run(): Promise<void> {
    let failures = 0
    while (!this.#closed) {
      let connection: Redis | undefined
      try {
        connection = this.#connection = this.#options.create()
        const ended = this.#watch(connection)
        await Promise.race([
          this.#establish(connection),
          ended.then(() => Promise.reject(new Error('closed')))
        ])
        failures = 0
        await ended
      } catch (error) {
        failures++
        if (!this.#closed) this.#options.listener.failed(error)
      }
      if (connection) drop(connection)
      if (this.#closed) return
      this.#down('connection-lost')
      await this.#pause(failures)
    }
  }

  /** Resolves once the connection is over, for whatever cause. */
  #watch(connection: Redis): Promise<void> {
    const { listener } = this.#options
    connection.on('messageBuffer', (wire: Buffer, message: Buffer) =>
      listener.message(wire.toString(), false, message)
    )
    connection.on('smessageBuffer', (wire: Buffer, message: Buffer) =>
      listener.message(wire.toString(), true, message)
    )
    // A shard channel that the server took away: ioredis 6 says `moved`, 5 takes it for an error of its queue.
    connection.on('moved', () => void this.#verify('all'))
    connection.on('error', (error: Error) => {
      if (error.message.startsWith('Command queue state error')) void this.#verify('all')
    })
    return new Promise((resolve) => {
      this.#end = resolve
      connection.once('close', resolve)
      connection.once('end', resolve)
    })
  }

  async #establish(connection: Redis): Promise<void> {
    await within(
      connection.connect(),
      CONNECT_TIMEOUT,
      () => new Error('the subscriber did not connect in time')
    )
    const done = new Set<Channel>()
    // Channels may be added while the first ones are on their way.
    for (;;) {
      const open = [...this.#channels].filter((channel) => !done.has(channel))
      if (open.length === 0) break
      for (const channel of open) done.add(channel)
      await this.#subscribe(connection, open)
    }
    if (this.#connection !== connection) return
    this.#ready = true
    this.#heartbeat = setInterval(() => void this.#verify('sample'), this.#options.heartbeat).unref()
  }

  async #subscribe(connection: Redis, channels: readonly Channel[]): Promise<void> {
    const { classic, sharded } = this.#commands(channels)
    await Promise.all([...classic, ...sharded].map((chunk) => this.#ask(connection, chunk)))
  }

  /** Asks for channels in one command. Throws where the connection is no good; an answer of Redis is told to the owner. */
  async #ask(connection: Redis, channels: Channel[]): Promise<void> {
    const { listener } = this.#options
    const [first] = channels
    const wires = channels.map(({ wire }) => wire)
    try {
      await (first!.sharded ? connection.ssubscribe(...wires) : connection.subscribe(...wires))
    } catch (error) {
      if (!(error instanceof Error) || error.name !== 'ReplyError') throw error
      if (this.#connection !== connection) return
      if (isRedirection(error)) listener.misplaced(channels)
      // Redis refuses a whole command for one of its channels: the others must not suffer.
      else if (channels.length > 1) await Promise.all(channels.map((one) => this.#ask(connection, [one])))
      else listener.refused(first!, error)
      return
    }
    if (this.#connection === connection) listener.acknowledged(channels)
  }

  #unsubscribe(connection: Redis, channels: readonly Channel[]): void {
    const { classic, sharded } = this.#commands(channels)
    const done = [
      ...classic.map((chunk) => connection.unsubscribe(...chunk.map(({ wire }) => wire))),
      ...sharded.map((chunk) => connection.sunsubscribe(...chunk.map(({ wire }) => wire)))
    ]
    for (const one of done) {
      // Redirected: the node no longer had it.
      one.catch((error: unknown) => void (isRedirection(error) || this.restart('silent')))
    }
  }

  /** The channels that go into one command each. */
  #commands(channels: readonly Channel[]): { classic: Channel[][]; sharded: Channel[][] } {
    const sharded = channels.filter((channel) => channel.sharded)
    const groups = this.#options.bySlot ? [...groupBySlot(sharded, ({ wire }) => wire).values()] : [sharded]
    return {
      classic: chunks(channels.filter((channel) => !channel.sharded)),
      sharded: groups.flatMap((group) => chunks(group))
    }
  }

  /**
   * Asks for a sign of life, and whether this node still serves its sharded channels: subscribing again to one that is held
   * changes nothing. One channel stands for its slot; those that are not acknowledged are all asked for.
   */
  async #verify(which: 'sample' | 'all'): Promise<void> {
    const connection = this.#connection
    if (!this.#ready || !connection || this.#verifying) return
    const sharded = [...this.#channels].filter((channel) => channel.sharded)
    const slots = this.#options.bySlot ? groupBySlot(sharded, ({ wire }) => wire).values() : []
    const samples = which === 'all' ? sharded : [...slots].map(([first]) => first!)
    const open = [...this.#channels].filter((channel) => !channel.live)
    const asked = [...new Set([...samples, ...open])]
    this.#verifying = true
    try {
      await within(
        Promise.all([connection.ping(), this.#subscribe(connection, asked)]),
        this.#options.heartbeatTimeout,
        () => new Error('no sign of life')
      )
    } catch {
      if (this.#connection === connection) this.restart('silent')
    } finally {
      this.#verifying = false
    }
  }

  #down(reason: GapReason): void {
    clearInterval(this.#heartbeat)
    this.#connection = undefined
    this.#ready = false
    // Before it was ready, too: some of the channels may have been acknowledged.
    this.#options.listener.lost(reason)
  }

  #pause(failures: number): Promise<void> {
    const longest = failures === 0 ? 0 : Math.min(MAX_BACKOFF, 25 * 2 ** Math.min(failures, 10))
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, longest * (0.5 + Math.random() / 2))
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
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
