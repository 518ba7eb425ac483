import { withTimeout } from '@flotilla/core'
import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import type { FastifyInstance } from 'fastify'
import { busGap, busProbe, busPublish } from './channels.js'
import { RedisPublishError } from './errors.js'
import { RecentMessages } from './recent-messages.js'
import { withoutArguments } from './reply-error.js'
import { commandTimeoutOf, type RedisClient } from './redis-client.js'
import { appSubscriber, publishTo, type AppSubscriber, type Gap } from './subscriber.js'

/** The owner of a topic. */
export interface TopicOptions {
  /**
   * Apps that share one bus keep apart what each means by a topic: its key prefix, for example. A message with a scope reaches
   * the handlers of that scope, and handlers without one as {@link FleetBus.useScope} says. Default: none.
   */
  scope?: string
}

/** What a handler gets besides the payload. */
export interface FleetBusMeta {
  /** The id of the instance that published. */
  readonly from: string
}

/** How the bus is. */
export interface FleetBusStatus {
  /** False until the first subscription: an app that only publishes opens no second connection. */
  readonly active: boolean
  /** Subscribed, acknowledged by Redis, and the last probe came back. */
  readonly connected: boolean
  /** When a message of this instance to itself last came back, in milliseconds of `Date.now()`. */
  readonly lastProbeAt: number | undefined
  /** How long that message took, in milliseconds. */
  readonly lastProbeMs: number | undefined
  /** How often messages may have been missed since the start. */
  readonly gaps: number
  /** When that last began, in milliseconds of `Date.now()`. */
  readonly lastGapAt: number | undefined
}

/** Gets each message of a topic, in the order in which Redis got them. */
export type FleetBusHandler = (payload: unknown, meta: FleetBusMeta) => void

/**
 * Small control messages between the instances of a fleet: at most once, with notice when some may have been
 * missed. In the order in which Redis got them, but in none on a Cluster, whose nodes pass them on to each other.
 */
export interface FleetBus {
  /** The id of this instance. */
  readonly instance: string
  /**
   * Resolves when Redis has taken the message; the own handlers get it too.
   *
   * @param payload anything that JSON can carry
   * @throws FLOTILLA_REDIS_ERR_PUBLISH within the command timeout when Redis did not take it.
   */
  publish(topic: string, payload: unknown, options?: TopicOptions): Promise<void>
  /**
   * Returns the function that ends it. A handler that throws is logged. A message without a scope reaches every handler: an
   * instance of an earlier version sent it.
   */
  subscribe(topic: string, handler: FleetBusHandler, options?: TopicOptions): () => void
  /**
   * Declares a scope in which this app uses a topic. Its handlers without a scope then get the messages of the declared scopes
   * only; if none is declared, those of all: a socket that closes without need does less harm than one that stays. So
   * `@flotilla/ws-broadcast` hears the revocations of its own app, whatever key prefix its sessions have. Returns the function
   * that takes it back.
   */
  useScope(topic: string, scope: string): () => void
  /**
   * Called when messages may have been missed: once when that is noticed and once when they flow again
   * (`gap.recovered`). What was learnt from the bus is suspect from the first call, and complete again only if it is
   * read anew after the second.
   */
  onGap(handler: (gap: Gap) => void): () => void
  /**
   * Resolves once the subscription is acknowledged: from then on nothing is missed without a gap.
   *
   * @throws FLOTILLA_REDIS_ERR_SUBSCRIBE when that took longer than 5 s; the bus goes on trying.
   */
  ready(): Promise<void>
  /** How the bus is, without asking Redis. */
  status(): FleetBusStatus
}

interface Subscription {
  readonly handler: FleetBusHandler
  readonly scope: string | undefined
}

export interface BusSettings {
  readonly instance: string
  /** Name of the channel; fleets that share a Redis need different ones, or different key prefixes. */
  readonly channel: string
  readonly probeInterval: number
  readonly probeTimeout: number
}

export const BUS_DEFAULTS = { channel: 'flotilla:bus', probeInterval: 3_000, probeTimeout: 2_000 } as const

const READY_TIMEOUT = 5_000

/** `HOSTNAME`, or the name of the machine, and a random suffix: two processes on one host differ. */
export function defaultInstance(): string {
  return `${process.env['HOSTNAME'] || hostname()}-${randomBytes(4).toString('hex')}`
}

export function createBus(fastify: FastifyInstance, client: RedisClient, settings: BusSettings): FleetBus {
  const bus = new RedisFleetBus(client, appSubscriber(fastify, client), settings, (error) =>
    fastify.log.error({ plugin: '@flotilla/redis', err: error }, 'a handler of the fleet bus failed')
  )
  fastify.addHook('onClose', async () => {
    bus.close()
  })
  return bus
}

class RedisFleetBus implements FleetBus {
  readonly instance: string
  readonly #client: RedisClient
  readonly #subscriber: AppSubscriber
  readonly #settings: BusSettings
  readonly #onError: (error: unknown) => void
  readonly #topics = new Map<string, Set<Subscription>>()
  /** By topic: the scopes that this app uses, one entry for each declaration. */
  readonly #scopes = new Map<string, { readonly scope: string }[]>()
  readonly #gapHandlers = new Set<(gap: Gap) => void>()
  readonly #recent = new RecentMessages()
  readonly #probeChannel: string
  #release: (() => void)[] = []
  #acknowledged: ((timeout: number) => Promise<void>) | undefined
  #timer: NodeJS.Timeout | undefined
  #closed = false
  #expected: { nonce: string; arrived: () => void } | undefined
  #probeFailed = false
  /** Counts losses and recoveries: a probe that was under way at one proves nothing. */
  #epoch = 0
  #lastProbeAt: number | undefined
  #lastProbeMs: number | undefined
  #gaps = 0
  #lastGapAt: number | undefined

  constructor(
    client: RedisClient,
    subscriber: AppSubscriber,
    settings: BusSettings,
    onError: (error: unknown) => void
  ) {
    this.#client = client
    this.#subscriber = subscriber
    this.#settings = settings
    this.#onError = onError
    this.instance = settings.instance
    this.#probeChannel = `${settings.channel}:probe:${settings.instance}`
  }

  async publish(topic: string, payload: unknown, { scope }: TopicOptions = {}): Promise<void> {
    const timeout = commandTimeoutOf(this.#client)
    const started = performance.now()
    const fail = (why: string, cause: unknown): Error =>
      new RedisPublishError(`@flotilla/redis: '${topic}' was not published: ${why}`, { cause })
    let message: string
    try {
      message = JSON.stringify({ t: topic, f: this.instance, n: this.#recent.nextId(), s: scope, p: payload })
    } catch (error) {
      throw fail('its payload is nothing that JSON can carry', error)
    }
    try {
      await withTimeout(publishTo(this.#client, this.#settings.channel, message), timeout, {
        timeoutError: () => new Error(`no answer within ${timeout} ms`)
      })
    } catch (error) {
      busPublish.publish({ topic, durationMs: performance.now() - started, error: withoutArguments(error) })
      throw fail(error instanceof Error ? error.message : String(error), error)
    }
    busPublish.publish({ topic, durationMs: performance.now() - started })
  }

  subscribe(topic: string, handler: FleetBusHandler, { scope }: TopicOptions = {}): () => void {
    this.#start()
    const subscription = { handler, scope }
    const all = this.#topics.get(topic) ?? new Set()
    this.#topics.set(topic, all)
    all.add(subscription)
    return () => {
      all.delete(subscription)
      if (all.size === 0 && this.#topics.get(topic) === all) this.#topics.delete(topic)
    }
  }

  useScope(topic: string, scope: string): () => void {
    const declaration = { scope }
    this.#scopes.set(topic, [...(this.#scopes.get(topic) ?? []), declaration])
    return () => {
      const left = (this.#scopes.get(topic) ?? []).filter((one) => one !== declaration)
      if (left.length > 0) this.#scopes.set(topic, left)
      else this.#scopes.delete(topic)
    }
  }

  onGap(handler: (gap: Gap) => void): () => void {
    const own = (gap: Gap): void => handler(gap)
    this.#gapHandlers.add(own)
    return () => void this.#gapHandlers.delete(own)
  }

  async ready(): Promise<void> {
    this.#start()
    await this.#acknowledged?.(READY_TIMEOUT)
  }

  status(): FleetBusStatus {
    return {
      active: this.#acknowledged !== undefined,
      connected: !this.#probeFailed && this.#subscriber.isLive(this.#settings.channel),
      lastProbeAt: this.#lastProbeAt,
      lastProbeMs: this.#lastProbeMs,
      gaps: this.#gaps,
      lastGapAt: this.#lastGapAt
    }
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    for (const release of this.#release.splice(0)) release()
    this.#topics.clear()
    this.#gapHandlers.clear()
  }

  #start(): void {
    if (this.#acknowledged || this.#closed) return
    const { channel } = this.#settings
    const messages = this.#subscriber.hold(channel, (message) => this.#receive(message))
    const probes = this.#subscriber.hold(this.#probeChannel, (message) => {
      if (this.#expected?.nonce === message.toString()) this.#expected.arrived()
    })
    const gaps = this.#subscriber.onGap((gap) => {
      if (!gap.channels.includes(channel)) return
      this.#epoch++
      if (gap.recovered) this.#probeSoon(0)
      this.#gap(gap)
    })
    this.#release = [messages.release, probes.release, gaps]
    this.#acknowledged = (timeout) => messages.acknowledged(timeout)
    this.#probeSoon(this.#settings.probeInterval)
  }

  #receive(message: Buffer): void {
    let read: { t?: unknown; f?: unknown; n?: unknown; s?: unknown; p?: unknown } | null
    try {
      read = JSON.parse(message.toString()) as typeof read
    } catch {
      return
    }
    // Not ours: another program publishes on the channel.
    if (typeof read !== 'object' || read === null) return
    const { t: topic, f: from, n: id, s: scope, p: payload } = read
    if (typeof topic !== 'string' || typeof from !== 'string') return
    if (scope !== undefined && typeof scope !== 'string') return
    // Earlier versions give none.
    if (typeof id === 'string' && !this.#recent.isNew(id)) return
    for (const subscription of this.#topics.get(topic) ?? []) {
      if (this.#concerns(topic, scope, subscription))
        this.#guard(() => subscription.handler(payload, { from }))
    }
  }

  #concerns(topic: string, scope: string | undefined, subscription: Subscription): boolean {
    if (scope === undefined) return true
    if (subscription.scope !== undefined) return subscription.scope === scope
    return this.#scopes.get(topic)?.some((own) => own.scope === scope) ?? true
  }

  /** A promise that a handler returns although its type says otherwise must not end the process. */
  #guard(run: () => unknown): void {
    try {
      const result = run()
      if (result instanceof Promise) result.catch(this.#onError)
    } catch (error) {
      this.#onError(error)
    }
  }

  #gap(gap: Gap): void {
    if (!gap.recovered) {
      this.#gaps++
      this.#lastGapAt = Date.now()
    }
    busGap.publish({ instance: this.instance, reason: gap.reason, recovered: gap.recovered })
    for (const handler of this.#gapHandlers) this.#guard(() => handler(gap))
  }

  #probeSoon(delay: number): void {
    clearTimeout(this.#timer)
    if (this.#closed) return
    this.#timer = setTimeout(() => void this.#probe(), delay)
    this.#timer.unref()
  }

  /** Sends itself a message the way all messages go: only its arrival proves that pub/sub works. */
  async #probe(): Promise<void> {
    const { probeInterval, probeTimeout, channel } = this.#settings
    // Not subscribed, which the status says already: nothing could come back.
    if (!this.#subscriber.isLive(channel) || !this.#subscriber.isLive(this.#probeChannel)) {
      return this.#probeSoon(probeInterval)
    }
    const epoch = this.#epoch
    const started = performance.now()
    const nonce = randomBytes(6).toString('hex')
    const arrival = new Promise<void>((arrived) => {
      this.#expected = { nonce, arrived }
    })
    let published = false
    try {
      await withTimeout(
        publishTo(this.#client, this.#probeChannel, nonce).then(() => {
          published = true
          return arrival
        }),
        probeTimeout,
        { timeoutError: () => new Error('the probe did not come back') }
      )
      this.#probeFailed = false
      this.#lastProbeAt = Date.now()
      this.#lastProbeMs = performance.now() - started
      busProbe.publish({ instance: this.instance, ok: true, durationMs: this.#lastProbeMs })
    } catch (error) {
      if (this.#closed) return
      if (epoch !== this.#epoch) return this.#probeSoon(0)
      this.#probeFailed = true
      busProbe.publish({ instance: this.instance, ok: false, error: withoutArguments(error) })
      // Redis took it and did not bring it back: the subscriber is dead, whatever it says of itself.
      if (published && !this.#closed) this.#subscriber.restart(channel, 'probe-lost')
    }
    this.#probeSoon(probeInterval)
  }
}
