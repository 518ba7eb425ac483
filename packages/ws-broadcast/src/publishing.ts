import { isCluster, publishTo, type RedisClient } from '@flotilla/redis'
import type { ConsistencyToken } from '@flotilla/core'
import type { ChannelKeys } from './channel-keys.js'
import type { ChannelRule, ChannelRules } from './channel-rules.js'
import { publishChannel } from './diagnostics.js'
import { DurableLanes } from './durable-lanes.js'
import { encodeAddress, plainEnvelope } from './envelope.js'
import {
  FLOTILLA_WS_ERR_CLOSED,
  FLOTILLA_WS_ERR_NO_HISTORY,
  FLOTILLA_WS_ERR_OPTION,
  FLOTILLA_WS_ERR_PUBLISH
} from './errors.js'
import { newEpoch } from './history.js'
import { messageHead } from './message-body.js'
import type { Position, Sender } from './protocol.js'
import { publishOnceScript, publishScript, type PublishReply } from './publish-script.js'

/** How one message is published. */
export interface PublishOptions {
  /** Not empty. The same key publishes once, however often it is tried, for `idempotencyTtl`. */
  idempotencyKey?: string
  /** Carried to the clients as `token`, so that what they fetch next is at least as new. */
  consistency?: ConsistencyToken | undefined
  /** Resolve only when a replica has the message; on channels with history alone. Default: the channel's rule. */
  durable?: boolean
  /** With `backpressure: 'conflate'`: a slow client gets the last message of each key. */
  conflateKey?: string
  /** A connection that does not get the message, by its id. If it has been made anew since, the client may get the message from history. */
  exclude?: string
  /**
   * Only clients get the message that take it now: it is not stored, has no position, and is dropped for a slow socket without a
   * `gap`. For what the next message replaces, such as a cursor or "is typing". Default `false`.
   */
  volatile?: boolean
}

/** How one message is published here: also what only this package says of it. */
export interface InternalPublishOptions extends PublishOptions {
  /** The client that published it. */
  readonly from?: Sender
}

/** The position of the message, on channels with history. */
export interface PublishResult extends Partial<Position> {
  /** True where the idempotency key had been used: nothing was sent, the position is the first one's. */
  readonly duplicate: boolean
}

export interface PublishSettings {
  readonly maxPayload: number
  readonly idempotencyTtl: number
  readonly durableTimeout: number
}

/** The id of a connection. */
const CONNECTION = /^[\w-]{1,64}$/
/** How much longer than its messages a channel's epoch and last offset are remembered. */
const META_GRACE = 86_400_000

/** Publishes with nothing but a Redis client; the plugin and the publisher share it. */
export class Publishing {
  readonly #command: 'PUBLISH' | 'SPUBLISH'
  readonly #lanes: DurableLanes
  #closed = false

  constructor(
    private readonly client: RedisClient,
    private readonly keys: ChannelKeys,
    private readonly rules: ChannelRules,
    private readonly settings: PublishSettings
  ) {
    this.#command = isCluster(client) ? 'SPUBLISH' : 'PUBLISH'
    this.#lanes = new DurableLanes(client, settings.durableTimeout)
  }

  async publish(
    channel: string,
    data: unknown,
    options: InternalPublishOptions = {}
  ): Promise<PublishResult> {
    if (this.#closed) throw new FLOTILLA_WS_ERR_CLOSED()
    const rule = this.rules.get(channel)
    const { idempotencyKey: key, volatile, exclude } = options
    const history = volatile ? undefined : rule.history
    if (options.durable && !rule.history) throw new FLOTILLA_WS_ERR_NO_HISTORY(channel)
    if (options.durable && volatile) {
      throw new FLOTILLA_WS_ERR_OPTION(`A publish to ${channel} is either volatile or durable`)
    }
    if (exclude !== undefined && (typeof exclude !== 'string' || !CONNECTION.test(exclude))) {
      throw new FLOTILLA_WS_ERR_OPTION(
        `'exclude' of a publish to ${channel} is the id of a connection, got ${JSON.stringify(exclude)?.slice(0, 40)}`
      )
    }
    // Messages with an empty key would all be one, and the others silently lost.
    if (key !== undefined && (typeof key !== 'string' || key === '')) {
      throw new FLOTILLA_WS_ERR_OPTION(
        `The idempotencyKey of a publish to ${channel} must be a non-empty string`
      )
    }
    const head = messageHead(channel, data, options, this.settings.maxPayload)
    const startedAt = publishChannel.active ? performance.now() : 0
    const result = history
      ? await this.#append(channel, rule, history, head, options)
      : await this.#announce(channel, head, options)
    if (startedAt > 0) {
      publishChannel.publish({
        channel,
        bytes: Buffer.byteLength(head),
        durationMs: performance.now() - startedAt
      })
    }
    return result
  }

  async #append(
    channel: string,
    rule: ChannelRule,
    history: { size: number; ttl: number },
    head: string,
    { idempotencyKey, durable = rule.durable, conflateKey, exclude }: PublishOptions
  ): Promise<PublishResult> {
    const meta = this.keys.meta(channel)
    const keys = [
      meta,
      this.keys.history(channel),
      idempotencyKey === undefined ? meta : this.keys.once(channel, idempotencyKey)
    ]
    const args = [
      this.keys.wire(channel),
      this.#command,
      head,
      history.size,
      history.ttl,
      history.ttl + META_GRACE,
      newEpoch(),
      encodeAddress(conflateKey, exclude),
      idempotencyKey === undefined ? 0 : this.settings.idempotencyTtl
    ]
    if (durable) return this.#lanes.publish(channel, keys, args).then(toResult)
    try {
      return toResult(await publishScript.run(this.client, keys, args))
    } catch (cause) {
      throw Object.assign(new FLOTILLA_WS_ERR_PUBLISH(channel), { cause })
    }
  }

  async #announce(
    channel: string,
    head: string,
    { idempotencyKey, conflateKey, exclude, volatile }: PublishOptions
  ): Promise<PublishResult> {
    const address = encodeAddress(conflateKey, exclude)
    const message = plainEnvelope(volatile ? 'v' : 'n', address, `${head}}`)
    try {
      if (idempotencyKey !== undefined) {
        const used = await publishOnceScript.run(
          this.client,
          [this.keys.once(channel, idempotencyKey)],
          [this.keys.wire(channel), this.#command, message, this.settings.idempotencyTtl]
        )
        return { duplicate: used === 1 }
      }
      await publishTo(this.client, this.keys.pubsub(channel), message, {
        sharded: this.#command === 'SPUBLISH'
      })
      return { duplicate: false }
    } catch (cause) {
      throw Object.assign(new FLOTILLA_WS_ERR_PUBLISH(channel), { cause })
    }
  }

  /** Closes what was opened here; the client is its owner's. */
  close(): void {
    this.#closed = true
    this.#lanes.close()
  }
}

function toResult([offset, epoch, duplicate]: PublishReply): PublishResult {
  return { offset, epoch, duplicate: duplicate === 1 }
}
