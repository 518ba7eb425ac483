import {
  didYouMean,
  formatDuration,
  optionReader,
  parseDuration,
  type Duration,
  type Size
} from '@flotilla/core'
import type { RedisClient } from '@flotilla/redis'
import { MAX_TIMER_MS } from './clock.js'
import { jsonCodec, msgpackCodec, type Codec } from './codec.js'
import { OptionsError, TagsError, TtlError } from './errors.js'
import { readHttpOptions, type HttpOptions, type HttpSettings } from './http/options.js'

const PLUGIN = '@flotilla/cache'

/** How one entry lives. Given at `register`, for a namespace, or in a call; the nearest wins. */
export interface EntryOptions {
  /** How long a value is fresh, at most `maxTtl`. 0 stores nothing. Default 5 minutes. */
  ttl?: Duration
  /** How long after `ttl` a value is still served at once while one process refreshes it. Default 0. */
  swr?: Duration
  /** How long after `ttl` an old value is served when the factory fails, or is later than `softTimeout`. Default 0. */
  grace?: Duration
  /** How long a factory that failed is left alone while an old value can be served. Default 5 seconds. */
  backoff?: Duration
  /** `ttl` of `null`, to keep "there is no such thing" shorter. 0 does not store it. Default: as `ttl`. */
  negativeTtl?: Duration
  /** Takes a random part of up to this fraction off each `ttl`, so that entries do not expire together. 0 to 1, default 0. */
  jitter?: number
  /** Eagerness of early refresh (XFetch): 1 as in the paper, more is earlier, 0 or false never. Default 1. */
  early?: number | false
  /** When an old value can be served within `grace`: how long the factory is waited for. Default `Infinity`: for as long as it takes. */
  softTimeout?: Duration
  /** After this the factory's `signal` is aborted and the call fails, or falls back on grace. `Infinity` for never. Default 30 seconds. */
  timeout?: Duration
}

export interface CacheOptions extends EntryOptions {
  /** Client: absent for `fastify.redis`, a name for `fastify.redis[name]`, a client, or `false` for memory only. */
  redis?: string | RedisClient | false
  /** Before every key in Redis. Default `flotilla:`. */
  keyPrefix?: string
  /** The memory of this process, or `false` for none. */
  memory?: { maxSize?: Size; maxEntries?: number } | false
  /** How values are written to Redis. Default `json`. */
  codec?: 'json' | 'msgpack' | Codec
  /** Payloads above this are compressed; `false` never. Default 16 kB. */
  compressAbove?: Size | false
  /** How long a process that computes a value is believed alive without a sign of life. Default 5 seconds. */
  lease?: Duration
  /** `soft`: how long Redis is waited for when an old value could be served; `hard`: when it counts as away. */
  redisTimeout?: { soft?: Duration; hard?: Duration }
  /** After `failures` failures in a row Redis is left alone, and probed every `cooldown`. */
  breaker?: { failures?: number; cooldown?: Duration }
  /** The longest life of any entry, grace included; the same for all instances. Default 30 days. */
  maxTtl?: Duration
  /** How far the clocks of two Cluster nodes may differ. Default 250 ms. */
  clockSkew?: Duration
  /**
   * How long a token given to `invalidateTags(tags, { after })` is asked of fills: until replicas that are further behind
   * are out of use. Default 1 minute.
   */
  tokenWindow?: Duration
  /** Whether a read at `have` contains all that `need` names. Default: only when both are the same token. */
  covers?: (have: string, need: string) => boolean
  /** The response cache for routes with `config.cache`; `false` leaves them alone. */
  http?: HttpOptions | false
}

/** {@link EntryOptions} in milliseconds. */
export interface EntryPolicy {
  readonly ttl: number
  readonly swr: number
  readonly grace: number
  readonly backoff: number
  readonly negativeTtl: number | undefined
  readonly jitter: number
  readonly early: number
  readonly softTimeout: number | undefined
  readonly timeout: number
  /** The longest `ttl` that may be asked for. */
  readonly maxTtl: number
}

export interface CacheSettings {
  readonly entry: EntryPolicy
  readonly redis: string | RedisClient | false | undefined
  readonly keyPrefix: string
  readonly memory: { maxSize: number; maxEntries: number | undefined } | undefined
  readonly codec: Codec
  readonly compressAbove: number
  readonly lease: number
  readonly redisTimeout: { soft: number; hard: number }
  readonly breaker: { failures: number; cooldown: number }
  readonly maxTtl: number
  readonly clockSkew: number
  readonly tokenWindow: number
  readonly covers: (have: string, need: string) => boolean
  readonly http: HttpSettings | undefined
}

const DEFAULT_ENTRY: Omit<EntryPolicy, 'maxTtl'> = {
  ttl: 300_000,
  swr: 0,
  grace: 0,
  backoff: 5000,
  negativeTtl: undefined,
  jitter: 0,
  early: 1,
  softTimeout: undefined,
  timeout: 30_000
}

/** @throws FLOTILLA_CACHE_ERR_OPTIONS naming the option, or FLOTILLA_CACHE_ERR_TTL for a duration of an entry */
export function readOptions(input: CacheOptions | undefined): CacheSettings {
  const options = optionReader(PLUGIN, input, OptionsError)
  for (const name of ENTRY_OPTIONS) options.raw(name)
  const maxTtl = options.duration('maxTtl', { default: 30 * 86_400_000, min: 1000 })
  const base = { ...DEFAULT_ENTRY, ttl: Math.min(DEFAULT_ENTRY.ttl, maxTtl), maxTtl }
  const settings: CacheSettings = {
    entry: entryPolicy(base, input ?? {}),
    redis: options.raw<string | RedisClient | false>('redis'),
    keyPrefix: options.string('keyPrefix', 'flotilla:'),
    memory:
      options.raw('memory') === false
        ? undefined
        : (options.group('memory', (group) => ({
            maxSize: group.size('maxSize', { default: 64 * 1024 ** 2, min: 1 }),
            maxEntries: group.integer('maxEntries', { default: undefined, min: 1 })
          })) ?? { maxSize: 64 * 1024 ** 2, maxEntries: undefined }),
    codec: readCodec(options.raw('codec'), (expected) => options.fail('codec', expected)),
    compressAbove:
      options.raw('compressAbove') === false
        ? Number.POSITIVE_INFINITY
        : options.size('compressAbove', { default: 16 * 1024 }),
    lease: options.duration('lease', { default: 5000, min: 100, max: MAX_TIMER_MS }),
    redisTimeout: options.group('redisTimeout', (group) => ({
      soft: group.duration('soft', { default: 200, min: 1, max: MAX_TIMER_MS }),
      hard: group.duration('hard', { default: 1000, min: 1, max: MAX_TIMER_MS })
    })) ?? { soft: 200, hard: 1000 },
    breaker: options.group('breaker', (group) => ({
      failures: group.integer('failures', { default: 3, min: 1 }),
      cooldown: group.duration('cooldown', { default: 1000, min: 10, max: MAX_TIMER_MS })
    })) ?? { failures: 3, cooldown: 1000 },
    maxTtl,
    clockSkew: options.duration('clockSkew', { default: 250 }),
    tokenWindow: options.duration('tokenWindow', { default: 60_000 }),
    covers: options.func<CacheSettings['covers'], CacheSettings['covers']>(
      'covers',
      (have, need) => have === need
    ),
    http:
      options.raw('http') === false
        ? undefined
        : (options.group('http', readHttpOptions) ?? readHttpOptions())
  }
  if (settings.redis === false && settings.memory === undefined) {
    options.fail('memory', 'left on where redis is false: there would be nowhere to keep anything')
  }
  options.done()
  return settings
}

/** A built-in codec by name, or the user's own. */
export function readCodec(value: unknown, fail: (expected: string) => never): Codec {
  if (value === undefined || value === 'json') return jsonCodec
  if (value === 'msgpack') return msgpackCodec()
  return isCodec(value) ? value : fail("'json', 'msgpack' or { name, encode, decode }")
}

function isCodec(value: unknown): value is Codec {
  if (typeof value !== 'object' || value === null) return false
  const { name, encode, decode } = value as Partial<Record<keyof Codec, unknown>>
  const named = typeof name === 'string' && name !== '' && name.length <= 32
  return named && typeof encode === 'function' && typeof decode === 'function'
}

const ENTRY_OPTIONS = [
  'ttl',
  'swr',
  'grace',
  'backoff',
  'negativeTtl',
  'jitter',
  'early',
  'softTimeout',
  'timeout'
] as const satisfies readonly (keyof EntryOptions)[]

const ENTRY_NAMES: ReadonlySet<string> = new Set(ENTRY_OPTIONS)

/**
 * Refuses a name that is no option: misspelt, it would do nothing.
 *
 * @param others besides those of {@link EntryOptions}
 * @throws FLOTILLA_CACHE_ERR_OPTIONS
 */
export function checkNames(what: string, options: object, others: readonly string[]): void {
  for (const name of Object.keys(options)) {
    if (!ENTRY_NAMES.has(name) && !others.includes(name)) refuse(what, name, [...ENTRY_OPTIONS, ...others])
  }
}

/** As {@link checkNames}, if none of {@link EntryOptions} has a meaning. */
export function checkKnown(what: string, options: object, known: readonly string[]): void {
  for (const name of Object.keys(options)) if (!known.includes(name)) refuse(what, name, known)
}

function refuse(what: string, name: string, known: readonly string[]): never {
  const hint = didYouMean(name, known)
  throw new OptionsError(
    `${PLUGIN}: ${what}: unknown option '${name}'${hint ? `${hint} K` : '; k'}nown options: ${known.join(', ')}`
  )
}

/**
 * The policy of one call or namespace over that of what it belongs to.
 * @throws FLOTILLA_CACHE_ERR_TTL for a duration that is none, FLOTILLA_CACHE_ERR_OPTIONS for the rest
 */
export function entryPolicy(base: EntryPolicy, options: EntryOptions | undefined): EntryPolicy {
  if (options === undefined) return base
  const { maxTtl } = base
  const softTimeout = orNever('softTimeout', options.softTimeout, base.softTimeout)
  return {
    ttl: ttlMs('ttl', options.ttl, base.ttl, maxTtl),
    swr: ms('swr', options.swr, base.swr),
    grace: ms('grace', options.grace, base.grace),
    backoff: ms('backoff', options.backoff, base.backoff),
    negativeTtl: ttlMs('negativeTtl', options.negativeTtl, base.negativeTtl, maxTtl),
    jitter: within('jitter', options.jitter, base.jitter, 1),
    early: within('early', options.early === false ? 0 : options.early, base.early, 100),
    softTimeout: softTimeout === Number.POSITIVE_INFINITY ? undefined : softTimeout,
    timeout: orNever('timeout', options.timeout, base.timeout),
    maxTtl
  }
}

/** @throws FLOTILLA_CACHE_ERR_TTL also if it is longer than any entry may live */
export function ttlMs<D>(name: string, value: Duration | undefined, fallback: D, maxTtl: number): number | D {
  const parsed = ms(name, value, fallback)
  if (value === undefined || (parsed as number) <= maxTtl) return parsed
  throw new TtlError(name, `at most the option maxTtl (${formatDuration(maxTtl)})`, String(value))
}

function orNever<D>(name: string, value: Duration | undefined, fallback: D): number | D {
  return value === Number.POSITIVE_INFINITY ? value : ms(name, value, fallback)
}

const DURATION =
  "a duration in milliseconds or a string such as '30s', not negative and finite; 0 stores nothing"

/** @throws FLOTILLA_CACHE_ERR_TTL */
export function ms<D>(name: string, value: Duration | undefined, fallback: D): number | D {
  if (value === undefined) return fallback
  if (typeof value === 'number' && value >= 0 && value < Number.POSITIVE_INFINITY) return value
  const parsed = parseDuration(value)
  if (parsed === undefined) throw new TtlError(name, DURATION, String(value))
  return parsed
}

function within(name: string, value: number | undefined, fallback: number, max: number): number {
  if (value === undefined) return fallback
  if (typeof value === 'number' && value >= 0 && value <= max) return value
  throw new OptionsError(
    `${PLUGIN}: option '${name}' must be a number between 0 and ${max}, got ${String(value)}`
  )
}

const NO_TAGS: readonly string[] = []

/** Each once. @throws FLOTILLA_CACHE_ERR_TAGS */
export function checkTags(tags: readonly string[] | undefined): readonly string[] {
  if (tags === undefined) return NO_TAGS
  if (!Array.isArray(tags)) throw new TagsError(typeof tags)
  const unique = new Set<string>()
  for (const tag of tags as unknown[]) {
    if (typeof tag !== 'string' || tag === '')
      throw new TagsError(`a list with ${tag === '' ? "''" : typeof tag}`)
    unique.add(tag)
  }
  return unique.size === tags.length ? (tags as readonly string[]) : [...unique]
}
