import { optionReader } from '@flotilla/core'
import { channelPrefixOf, type RedisClient } from '@flotilla/redis'
import { ChannelKeys } from './channel-keys.js'
import { createChannelRules } from './channel-rules.js'
import { FLOTILLA_WS_ERR_OPTION } from './errors.js'
import { readRules, type BroadcastOptions } from './options.js'
import { Publishing, type PublishOptions, type PublishResult } from './publishing.js'

/** The options of the instances that a publisher must agree with, and a client. */
export interface PublisherOptions extends Pick<
  BroadcastOptions,
  'channels' | 'keyPrefix' | 'maxPayload' | 'idempotencyTtl' | 'durableTimeout'
> {
  /** An ioredis client, yours to close. */
  redis: RedisClient
}

/** Publishes from a process without a web server: a worker, a cron job. */
export interface Publisher {
  /** As `app.broadcast.publish`. */
  publish(channel: string, data: unknown, options?: PublishOptions): Promise<PublishResult>
  /** Closes the connection that durable publishes opened; the client stays open. */
  close(): void
}

/**
 * @param options give it the same `channels` and `keyPrefix` as the instances
 * @throws FLOTILLA_WS_ERR_OPTION
 */
export function createPublisher(options: PublisherOptions): Publisher {
  const read = optionReader('@flotilla/ws-broadcast/publisher', options, FLOTILLA_WS_ERR_OPTION)
  const redis = read.raw<RedisClient>('redis')
  if (typeof redis?.duplicate !== 'function') return read.fail('redis', 'an ioredis client')
  const keyPrefix = read.string('keyPrefix', 'flotilla:ws:')
  const rules = createChannelRules(readRules(read))
  const settings = {
    maxPayload: read.size('maxPayload', { default: 65_536, min: 256, max: 16_777_216 }),
    idempotencyTtl: read.duration('idempotencyTtl', { default: 300_000, min: 1000 }),
    durableTimeout: read.duration('durableTimeout', { default: 500, min: 1 })
  }
  read.done()
  const keys = new ChannelKeys(keyPrefix, channelPrefixOf(redis))
  const publishing = new Publishing(redis, keys, rules, settings)
  return {
    publish: (channel, data, publishOptions) => publishing.publish(channel, data, publishOptions),
    close: () => publishing.close()
  }
}

export type { PublishOptions, PublishResult } from './publishing.js'
