import { TimeoutError } from '@flotilla/core'
import type { FastifyInstance } from 'fastify'
import { RedisClosedError, RedisSubscribeError } from './errors.js'
import { channelPrefixOf, databasePartOf, type RedisClient } from './redis-client.js'
import { SharedSubscriber } from './shared-subscriber.js'
import type { GapReason } from './subscriber-link.js'

/** Messages may have been missed on some channels. */
export interface Gap {
  /** Why messages may have been missed. */
  readonly reason: GapReason
  /** False when the loss is noticed, true when messages flow again: what was missed lies before this moment. */
  readonly recovered: boolean
  /** The channels concerned, as they were given to `subscribe`. */
  readonly channels: readonly string[]
}

/** How a channel is subscribed. */
export interface SubscribeOptions {
  /**
   * SSUBSCRIBE (Redis 7): on a Cluster only the shard that owns the channel's slot carries its messages. Publish
   * with SPUBLISH. Default false.
   */
  sharded?: boolean
}

/** Gets the bytes of a message and the channel as it was given to `subscribe`. */
export type MessageHandler = (message: Buffer, channel: string) => void

/** The app's part in the one subscriber connection of a client. */
export interface Subscriber {
  /**
   * Resolves once Redis has acknowledged the subscription, with the function that ends it. On the wire the client's
   * {@link channelPrefixOf} stands before the channel: publish with {@link publishTo}, or prefix it yourself.
   *
   * @throws FLOTILLA_REDIS_ERR_SUBSCRIBE when Redis refused it, or acknowledged nothing at all for 5 s; FLOTILLA_REDIS_ERR_CLOSED
   *   after close.
   */
  subscribe(channel: string, handler: MessageHandler, options?: SubscribeOptions): Promise<() => void>
  /** Called when messages may have been missed, and again when they flow. Returns the function that ends it. */
  onGap(handler: (gap: Gap) => void): () => void
}

const SUBSCRIBE_TIMEOUT = 5_000

const shared = new WeakMap<RedisClient, SharedSubscriber>()
const views = new WeakMap<object, Map<RedisClient, AppSubscriber>>()

/**
 * The subscriber of a client for one app: one connection a client (one more per master of a Cluster that
 * holds sharded channels), opened by the first subscription and closed with the last app that uses it. Call it while
 * plugins load.
 */
export function resolveSubscriber(fastify: FastifyInstance, client: RedisClient): Subscriber {
  return appSubscriber(fastify, client)
}

/** As {@link resolveSubscriber}, with what only the bus needs. */
export function appSubscriber(fastify: FastifyInstance, client: RedisClient): AppSubscriber {
  // Encapsulated instances of one app share its server: the app's identity.
  const ofApp = views.get(fastify.server) ?? new Map<RedisClient, AppSubscriber>()
  views.set(fastify.server, ofApp)
  const existing = ofApp.get(client)
  if (existing) return existing
  const connection = shared.get(client) ?? new SharedSubscriber(client)
  shared.set(client, connection)
  const view = new AppSubscriber(connection, client, (error) =>
    fastify.log.error({ plugin: '@flotilla/redis', err: error }, 'a subscription handler failed')
  )
  fastify.addHook('onClose', async () => {
    view.close()
  })
  ofApp.set(client, view)
  return view
}

/** Publishes to a channel that {@link Subscriber.subscribe} listens to: PUBLISH, or SPUBLISH if `sharded`. */
export async function publishTo(
  client: RedisClient,
  channel: string,
  message: string | Buffer,
  { sharded = false }: SubscribeOptions = {}
): Promise<number> {
  // ioredis puts the prefix before the channel of SPUBLISH, which has a slot, and not before that of PUBLISH.
  const receivers = sharded
    ? await client.spublish(databasePartOf(client) + channel, message)
    : await client.publish(channelPrefixOf(client) + channel, message)
  return Number(receivers)
}

/** One app's view: what it subscribed to ends with it, the connection with the last view. */
export class AppSubscriber implements Subscriber {
  readonly #connection: SharedSubscriber
  readonly #prefix: string
  readonly #onError: (error: unknown) => void
  readonly #releases = new Set<() => void>()
  #closed = false

  constructor(connection: SharedSubscriber, client: RedisClient, onError: (error: unknown) => void) {
    this.#connection = connection
    this.#prefix = channelPrefixOf(client)
    this.#onError = onError
  }

  async subscribe(
    channel: string,
    handler: MessageHandler,
    options: SubscribeOptions = {}
  ): Promise<() => void> {
    const { release, acknowledged } = this.hold(channel, handler, options)
    try {
      await acknowledged(SUBSCRIBE_TIMEOUT)
    } catch (error) {
      release()
      throw error
    }
    return release
  }

  /** Wants a channel from now on, whether or not Redis is there; `acknowledged` waits for it. */
  hold(channel: string, handler: MessageHandler, { sharded = false }: SubscribeOptions = {}) {
    if (this.#closed)
      throw new RedisClosedError(`@flotilla/redis: cannot subscribe to '${channel}': the app is closed`)
    const subscription = this.#connection.hold(this.#prefix + channel, sharded, (message) => {
      try {
        handler(message, channel)
      } catch (error) {
        this.#onError(error)
      }
    })
    const release = (): void => {
      if (this.#releases.delete(release)) subscription.release()
    }
    this.#releases.add(release)
    return {
      release,
      acknowledged: async (timeout: number): Promise<void> => {
        try {
          await subscription.acknowledged(timeout)
        } catch (error) {
          throw error instanceof TimeoutError
            ? new RedisSubscribeError(
                `@flotilla/redis: the subscription to '${channel}' was not acknowledged within ${timeout} ms; is Redis reachable?`,
                { cause: this.#connection.lastError }
              )
            : new RedisSubscribeError(
                `@flotilla/redis: Redis refused the subscription to '${channel}': ${(error as Error).message}`,
                { cause: error }
              )
        }
      }
    }
  }

  onGap(handler: (gap: Gap) => void): () => void {
    const remove = this.#connection.onGap((gap) => {
      const { reason, recovered, wires } = gap
      try {
        handler({ reason, recovered, channels: wires.map((wire) => wire.slice(this.#prefix.length)) })
      } catch (error) {
        this.#onError(error)
      }
    })
    const release = (): void => {
      if (this.#releases.delete(release)) remove()
    }
    this.#releases.add(release)
    return release
  }

  /** Whether Redis has acknowledged the channel and the connection is up. */
  isLive(channel: string): boolean {
    return this.#connection.isLive(this.#prefix + channel, false)
  }

  /** Replaces the connection that carries a channel. */
  restart(channel: string, reason: GapReason): void {
    this.#connection.restart(this.#prefix + channel, false, reason)
  }

  close(): void {
    this.#closed = true
    for (const release of this.#releases) release()
  }
}
