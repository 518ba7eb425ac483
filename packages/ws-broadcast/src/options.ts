import { optionReader, type Duration, type OptionReader, type Size } from '@flotilla/core'
import type { RedisClient } from '@flotilla/redis'
import type { FastifyRequest } from 'fastify'
import {
  isChannelName,
  type BackpressurePolicy,
  type ChannelRule,
  type ClientPublish
} from './channel-rules.js'
import { FLOTILLA_WS_ERR_OPTION } from './errors.js'
import type { Identity } from './identity.js'
import { isSchema, type Schema } from './schema.js'

const PLUGIN = '@flotilla/ws-broadcast'

/**
 * What a client asks leave for. `'presence'`: to see who is there; asked when it asks for the list, and at each subscribe to a
 * channel that keeps presence, whose events it gets only then.
 */
export type ChannelAction = 'subscribe' | 'publish' | 'presence'

/** Settings of one channel name or pattern. */
export interface ChannelOptions {
  /** Messages kept for resume: at least `size`, for `ttl` after the last one. `false`: none, deliver at most once. Default `false`. */
  history?: { size?: number; ttl?: Duration } | false
  /** Keep who is subscribed. A function returns what the others see as `info`, as JSON has it. Default `false`. */
  presence?: boolean | ((request: FastifyRequest) => unknown)
  /** Who may publish: the server alone, or clients too (after `authorize`). Default `'server'`. */
  publish?: 'server' | 'client'
  /**
   * Checks what clients publish, after `authorize` and before `onPublish`: a schema of Zod, Valibot, ArkType or any library that
   * implements Standard Schema. What does not fit is refused with `invalid_data`. What the server publishes is not checked.
   */
  schema?: Schema
  /**
   * Called with each message that a client publishes, after `authorize`: check it, change it, store it. What it returns is
   * published instead; `undefined` refuses the message with `forbidden`. Throw a {@link PublishRefusedError} to refuse it with
   * a code of your own. Messages of one client to one channel keep their order.
   */
  onPublish?: (publish: ClientPublish) => unknown
  /**
   * What happens to a socket over `highWaterMark`. `resync` (default with history): catch up from history once drained;
   * `drop`: skip, then say `gap`; `conflate`: keep the latest message per `conflateKey`, and of those without one; `disconnect` (default without history).
   */
  backpressure?: BackpressurePolicy
  /** Acknowledge a publish only when a replica has it; with history alone. Default `false`. */
  durable?: boolean
}

/** Options of the plugin. */
export interface BroadcastOptions {
  /** The channels clients may use, by name or pattern (`*` stands for one or more characters). */
  channels: Record<string, ChannelOptions>
  /** Path of the WebSocket endpoint; `false`: none, use `attach()`. Default `'/ws'`. */
  path?: string | false
  /** Path of the read-only server-sent events endpoint. Default: none. */
  ssePath?: string | false
  /** Client to use: a namespace of `fastify.redis` or an ioredis client. Default `fastify.redis`. */
  redis?: string | RedisClient
  /** Prefix of every key and pub/sub channel. Default `'flotilla:ws:'`. */
  keyPrefix?: string
  /**
   * Who connects, from the upgrade request. `null`, anything that is no object, or an error with `statusCode: 401` refuses: a
   * WebSocket is closed with 4401 and the error's message, any other request gets 401. Default: the session, if there is one.
   */
  authenticate?: (request: FastifyRequest) => Identity | null | Promise<Identity | null>
  /** Whether this request's connection may do this. Default: yes to what the channel's rule allows. */
  authorize?: (request: FastifyRequest, channel: string, action: ChannelAction) => boolean | Promise<boolean>
  /**
   * Origins that may connect: a list, or `'any'`. Default: the host of the request itself (cross-site WebSocket hijacking,
   * OWASP WebSocket Security Cheat Sheet). Requests without an Origin header are no browser's and pass.
   */
  origins?: 'any' | readonly string[]
  /** Largest message, of clients and of `publish`. Default `'64kb'`. */
  maxPayload?: Size
  /** Bytes waiting for one socket above which its channels stop pushing to it. Default `'256kb'`. */
  highWaterMark?: Size
  /** Channels of one connection. Default 100. */
  maxChannels?: number
  /** Connections of this instance. Default 20,000. */
  maxConnections?: number
  /**
   * Commands of one connection: per second, default 50, and at once (`burst`): at least `maxChannels`, default 200 or twice
   * `maxChannels`, the greater. A client that sends more is closed with 4429. `bytesPerSecond`: how fast its socket is read
   * at most, default `'256kb'` or `maxPayload`, the greater.
   */
  rate?: { perSecond?: number; burst?: number; bytesPerSecond?: Size }
  /** A ping each `interval`; closed when nothing came back within `timeout` of it. Default `'25s'`, `'10s'`. */
  ping?: { interval?: Duration; timeout?: Duration }
  /** How long an instance's presence outlives its last heartbeat. Default `'15s'`. */
  presenceLease?: Duration
  /** How long an idempotency key is remembered. Default `'5m'`. */
  idempotencyTtl?: Duration
  /** Bound on the wait for a replica when `durable`. Default `'500ms'`. */
  durableTimeout?: Duration
  /** How long a channel without local members stays subscribed in Redis. Default `'5s'`. */
  linger?: Duration
  /** On drain: closes spread over `spread`, silent peers terminated after `grace`. Default `'10s'`, `'2s'`. */
  drain?: { spread?: Duration; grace?: Duration }
  /**
   * permessage-deflate. Default `false`: it costs memory and the joined writes. Where the app has registered `@fastify/websocket`
   * itself, that one's `perMessageDeflate`; an option that says otherwise is refused.
   */
  compression?: boolean
}

/** {@link BroadcastOptions}, checked, in milliseconds and bytes. */
export interface BroadcastConfig {
  readonly rules: readonly ChannelRule[]
  readonly path: string | false
  readonly ssePath: string | false
  readonly redis: string | RedisClient | undefined
  readonly keyPrefix: string
  readonly authenticate: BroadcastOptions['authenticate']
  readonly authorize: BroadcastOptions['authorize']
  readonly origins: 'any' | readonly string[] | undefined
  readonly maxPayload: number
  readonly highWaterMark: number
  readonly maxChannels: number
  readonly maxConnections: number
  readonly rate: { readonly perSecond: number; readonly burst: number; readonly bytesPerSecond: number }
  readonly ping: { readonly interval: number; readonly timeout: number }
  readonly presenceLease: number
  readonly idempotencyTtl: number
  readonly durableTimeout: number
  readonly linger: number
  readonly drain: { readonly spread: number; readonly grace: number }
  readonly compression: boolean | undefined
}

/** What `presence: true` tells of a member: nothing. */
export const NO_INFO = (): undefined => undefined

/** @throws FLOTILLA_WS_ERR_OPTION naming the option, before anything is opened */
export function readOptions(input: unknown): BroadcastConfig {
  const read = optionReader(PLUGIN, input, FLOTILLA_WS_ERR_OPTION)
  // Fastify applies it to plugins with a scope of their own alone: here it would change nothing.
  if (read.has('prefix')) read.fail('prefix', "left out; put it into 'path' and 'ssePath'")
  const maxChannels = read.integer('maxChannels', { default: 100, min: 1 })
  const maxPayload = read.size('maxPayload', { default: 65_536, min: 256, max: 16_777_216 })
  const config: BroadcastConfig = {
    rules: readRules(read),
    path: readPath(read, 'path', '/ws'),
    ssePath: readPath(read, 'ssePath', false),
    redis: read.raw('redis'),
    keyPrefix: read.string('keyPrefix', 'flotilla:ws:'),
    authenticate: read.func('authenticate', undefined),
    authorize: read.func('authorize', undefined),
    origins: readOrigins(read),
    maxPayload,
    highWaterMark: read.size('highWaterMark', { default: 262_144, min: 1024 }),
    maxChannels,
    maxConnections: read.integer('maxConnections', { default: 20_000, min: 1 }),
    rate: readRate(read, maxChannels, maxPayload),
    ping: read.group('ping', (ping) => ({
      interval: ping.duration('interval', { default: 25_000, min: 100 }),
      timeout: ping.duration('timeout', { default: 10_000, min: 100 })
    })) ?? { interval: 25_000, timeout: 10_000 },
    presenceLease: read.duration('presenceLease', { default: 15_000, min: 300 }),
    idempotencyTtl: read.duration('idempotencyTtl', { default: 300_000, min: 1000 }),
    durableTimeout: read.duration('durableTimeout', { default: 500, min: 1 }),
    linger: read.duration('linger', { default: 5000, min: 0 }),
    drain: read.group('drain', (drain) => ({
      spread: drain.duration('spread', { default: 10_000, min: 0 }),
      grace: drain.duration('grace', { default: 2000, min: 0 })
    })) ?? { spread: 10_000, grace: 2000 },
    compression: read.boolean('compression', undefined)
  }
  read.done()
  return config
}

/** The rules of the option `channels`; also what the publisher reads. */
export function readRules(read: OptionReader): ChannelRule[] {
  const rules = read.group('channels', (channels) =>
    channels.keys().map((pattern) => {
      if (!isChannelName(pattern))
        channels.fail(pattern, 'named without spaces, control characters or braces')
      return channels.group(pattern, (rule) => readRule(pattern, rule))!
    })
  )
  if (!rules || rules.length === 0) {
    read.fail('channels', "an object of channel names or patterns, such as { 'room:*': { presence: true } }")
  }
  return rules
}

function readRule(pattern: string, read: OptionReader): ChannelRule {
  const history =
    read.raw('history') === false || read.raw('history') === undefined
      ? undefined
      : read.group('history', (group) => ({
          size: group.integer('size', { default: 100, min: 1, max: 1_000_000 }),
          ttl: group.duration('ttl', { default: 600_000, min: 1000 })
        }))
  const presence = read.raw<boolean | ((request: FastifyRequest) => unknown)>('presence')
  if (presence !== undefined && typeof presence !== 'boolean' && typeof presence !== 'function') {
    read.fail('presence', 'true, false or a function')
  }
  const backpressure = read.oneOf(
    'backpressure',
    ['resync', 'drop', 'conflate', 'disconnect'],
    history ? 'resync' : 'disconnect'
  )
  if (backpressure === 'resync' && !history) {
    read.fail('backpressure', "'drop', 'conflate' or 'disconnect' on a channel without history")
  }
  const durable = read.boolean('durable', false)
  if (durable && !history) read.fail('durable', 'false on a channel without history')
  const clientPublish = read.oneOf('publish', ['server', 'client'], 'server') === 'client'
  const onPublish = read.func<NonNullable<ChannelRule['onPublish']>, undefined>('onPublish', undefined)
  if (onPublish && !clientPublish) read.fail('onPublish', "left out, or publish: 'client'")
  const schema = read.raw<Schema>('schema')
  if (schema !== undefined && !isSchema(schema)) {
    read.fail('schema', 'a schema of Zod, Valibot or another library with Standard Schema')
  }
  if (schema && !clientPublish) read.fail('schema', "left out, or publish: 'client'")
  return {
    pattern,
    history,
    presence: presence === true ? NO_INFO : presence || undefined,
    clientPublish,
    schema,
    onPublish,
    backpressure,
    durable
  }
}

/** A client that comes back subscribes to all its channels at once; with a smaller burst it would be sent away each time. */
function readRate(read: OptionReader, maxChannels: number, maxPayload: number): BroadcastConfig['rate'] {
  const defaults = {
    perSecond: 50,
    burst: Math.max(200, 2 * maxChannels),
    // A message that takes longer than a second to be paid for would keep its client from answering pings.
    bytesPerSecond: Math.max(262_144, maxPayload)
  }
  return (
    read.group('rate', (rate) => {
      const burst = rate.integer('burst', { default: defaults.burst, min: 1 })
      if (burst < maxChannels) {
        rate.fail(
          'burst',
          `at least 'maxChannels' (${maxChannels}): a client subscribes to its channels at once`
        )
      }
      return {
        perSecond: rate.number('perSecond', { default: defaults.perSecond, min: 0.1 }),
        burst,
        bytesPerSecond: rate.size('bytesPerSecond', { default: defaults.bytesPerSecond, min: 1024 })
      }
    }) ?? defaults
  )
}

function readPath(read: OptionReader, name: string, fallback: string | false): string | false {
  const value = read.raw(name)
  if (value === false) return false
  const path = read.string(name, fallback)
  if (path !== false && !path.startsWith('/')) read.fail(name, "a path starting with '/', or false")
  return path
}

function readOrigins(read: OptionReader): 'any' | readonly string[] | undefined {
  const value = read.raw('origins')
  if (value === 'any' || value === undefined) return value
  const origins = read.strings('origins', [])
  if (!origins.every((one) => URL.canParse(one) && new URL(one).origin === one)) {
    read.fail('origins', "'any' or a list of origins such as 'https://app.example.org' (no path)")
  }
  return origins
}
