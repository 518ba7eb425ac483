import { didYouMean, optionReader, type Duration } from '@flotilla/core'
import { BUS_DEFAULTS, defaultInstance, type BusSettings } from './bus.js'
import { RedisOptionsError } from './errors.js'
import { IOREDIS_OPTIONS, NODE_OPTIONS, type IoredisOptions } from './ioredis-options.js'
import { isRedisClient, type RedisClient } from './redis-client.js'
import { parseRedisUrl, type RedisTarget } from './topology.js'

/** The fleet bus. */
export interface BusOptions {
  /**
   * Name of the pub/sub channel. Fleets that share a Redis need different ones, or different key prefixes.
   * Default `'flotilla:bus'`.
   */
  channel?: string
  /** Time between the messages that an instance sends itself to prove that pub/sub works. Default `'3s'`. */
  probeInterval?: Duration
  /** How long such a message may take before pub/sub counts as dead. Default `'2s'`. */
  probeTimeout?: Duration
}

/** The plugin's own options. */
export interface OwnOptions {
  /**
   * `redis://`, `rediss://`, `redis+sentinel://h1,h2/mymaster`, `redis+cluster://h1,h2` or `unix:///run/redis.sock`, with user,
   * password and database; `valkey` may stand for `redis`. Either this or `client`.
   */
  url?: string
  /** An ioredis client (5 or 6) of your own, which stays yours to close. */
  client?: RedisClient
  /** The URL names nodes of a Redis Cluster. Default false, or true for `redis+cluster://`. */
  cluster?: boolean
  /** Id of this instance on the fleet bus. Default: `HOSTNAME` and a random suffix. */
  instance?: string
  /** How long `register` waits for Redis. Default `'5s'`. */
  connectTimeout?: Duration
  /** How long a command may take, time in queues included. Default `'1s'`. */
  commandTimeout?: Duration
  /** The fleet bus. */
  bus?: BusOptions
}

/** Options of the plugin; what is not its own goes to ioredis. */
export type RedisPluginOptions = OwnOptions & IoredisOptions

export interface Settings {
  readonly target: RedisTarget | undefined
  readonly client: RedisClient | undefined
  readonly connectTimeout: number
  readonly commandTimeout: number
  readonly bus: BusSettings
  readonly ioredis: IoredisOptions
}

const OWN = new Set(['url', 'client', 'cluster', 'instance', 'connectTimeout', 'commandTimeout', 'bus'])
/** Read by Fastify itself from the options of `register`. */
const FASTIFY = new Set(['prefix', 'logLevel', 'logSerializers'])
const REFUSED: Record<string, string> = {
  host: "it belongs into the url: 'redis://host:6379'",
  port: "it belongs into the url: 'redis://host:6379'",
  path: "it belongs into the url: 'unix:///run/redis/redis.sock'",
  sentinels: "use url: 'redis+sentinel://h1:26379,h2:26379/mymaster'",
  name: "the name of the master group belongs into the url: 'redis+sentinel://h1:26379/mymaster'",
  lazyConnect: 'the plugin connects before the app is ready',
  monitor: 'open a client of your own to monitor',
  readOnly: 'open a client of your own to read from a replica',
  closeClient: 'a client is closed by whoever opened it: the plugin closes its own only',
  namespace:
    'for a second Redis register @fastify/redis with a namespace, or pass a client of your own to a plugin'
}

/** @throws FLOTILLA_REDIS_ERR_OPTIONS naming the option, before anything is opened. */
export function readOptions(input: unknown): Settings {
  const own: Record<string, unknown> = {}
  const ioredis: Record<string, unknown> = {}
  const given = typeof input === 'object' && input !== null ? Object.entries(input) : []
  for (const [name, value] of given) {
    if (OWN.has(name)) own[name] = value
    // As if it were not there: it must not take away what the URL says, such as TLS or the password.
    else if (value === undefined) continue
    else if (name in REFUSED)
      throw new RedisOptionsError(`@flotilla/redis: option '${name}' is refused: ${REFUSED[name]}`)
    else if (IOREDIS_OPTIONS.has(name)) ioredis[name] = value
    else if (!FASTIFY.has(name)) throw unknownOption(name, [...OWN, ...IOREDIS_OPTIONS])
  }
  checkNodeOptions(ioredis['redisOptions'])
  const reader = optionReader('@flotilla/redis', own, RedisOptionsError)
  const cluster = reader.boolean('cluster', false)
  const settings: Settings = {
    target: reader.has('url') ? readUrl(reader.string('url', ''), cluster) : undefined,
    client: readClient(reader.raw('client')),
    connectTimeout: reader.duration('connectTimeout', { default: 5_000, min: 100, max: 600_000 }),
    commandTimeout: reader.duration('commandTimeout', { default: 1_000, min: 10, max: 600_000 }),
    bus: {
      ...BUS_DEFAULTS,
      ...readBus(reader.raw('bus')),
      instance: reader.string('instance', defaultInstance())
    },
    ioredis
  }
  if (settings.target && settings.client) {
    throw new RedisOptionsError("@flotilla/redis: options 'url' and 'client' exclude each other")
  }
  if (!settings.target && !settings.client) {
    throw new RedisOptionsError(
      "@flotilla/redis: needs option 'url', such as 'redis://127.0.0.1:6379', or 'client', an ioredis client. Without Redis leave this " +
        'plugin out: @flotilla/cache (redis: false, in memory only), @flotilla/db-router and @flotilla/health work without it; @flotilla/session and @flotilla/ws-broadcast do not'
    )
  }
  const [unused] = settings.client ? Object.keys(ioredis) : []
  if (unused !== undefined) {
    throw new RedisOptionsError(
      `@flotilla/redis: option '${unused}' has no effect on a client that is open already; give it to that client`
    )
  }
  return settings
}

function checkNodeOptions(options: unknown): void {
  if (options === undefined) return
  if (typeof options !== 'object' || options === null) {
    throw new RedisOptionsError("@flotilla/redis: option 'redisOptions' must be an object")
  }
  for (const name of Object.keys(options)) {
    if (!NODE_OPTIONS.has(name)) throw unknownOption(name, NODE_OPTIONS, 'redisOptions.')
  }
}

function unknownOption(name: string, known: Iterable<string>, group = ''): Error {
  return new RedisOptionsError(
    `@flotilla/redis: unknown option '${group}${name}', which neither the plugin nor ioredis has${didYouMean(name, known)}`
  )
}

function readUrl(url: string, cluster: boolean): RedisTarget {
  try {
    return parseRedisUrl(url, cluster)
  } catch (error) {
    // The URL may hold a password: it is not repeated.
    throw new RedisOptionsError(`@flotilla/redis: option 'url' is malformed: ${(error as Error).message}`, {
      cause: error
    })
  }
}

function readClient(client: unknown): RedisClient | undefined {
  if (client === undefined || isRedisClient(client)) return client
  throw new RedisOptionsError("@flotilla/redis: option 'client' must be an ioredis Redis or Cluster")
}

function readBus(input: unknown): Partial<BusSettings> {
  const reader = optionReader('@flotilla/redis', { bus: input }, RedisOptionsError)
  return (
    reader.group('bus', (group) => ({
      channel: group.string('channel', BUS_DEFAULTS.channel),
      probeInterval: group.duration('probeInterval', {
        default: BUS_DEFAULTS.probeInterval,
        min: 100,
        max: 60_000
      }),
      probeTimeout: group.duration('probeTimeout', {
        default: BUS_DEFAULTS.probeTimeout,
        min: 50,
        max: 60_000
      })
    })) ?? {}
  )
}
