import { optionReader, type Duration, type OptionReader, type Secret } from '@flotilla/core'
import type { RedisClient } from '@flotilla/redis'
import type { FastifyRequest } from 'fastify'
import type pg from 'pg'
import type { BudgetSettings } from './budget.js'
import type { Carrier } from './carriers/carrier.js'
import type { CookieSettings } from './carriers/cookie.js'
import type { PoolSettings } from './driver-pool.js'
import { OptionError } from './errors.js'
import type { MonitorSettings } from './monitor.js'
import type { RouteClassifier } from './route-classifier.js'
import { parseServer, type ServerAddress } from './server-address.js'

/** Where a server is: a `postgres://` URL, or what `pg` takes. */
export type ServerOption = string | pg.ClientConfig

/** Options of the plugin. */
export interface DbRouterOptions {
  /** The server that takes writes, or several of which one does: roles are observed. */
  primary: ServerOption | readonly ServerOption[]
  /** Streaming replicas that answer reads. Default none. */
  replicas?: readonly ServerOption[]
  /**
   * What the health checks, the cookie, the header, the entry in the session and the keys in Redis are called after: two
   * databases of one app need two. Letters, digits, `_` and `-`. Default `'db'`.
   */
  name?: string
  /**
   * Signs the tokens that clients carry, 32 bytes or more. Of several the first signs and all verify: for rotation the new
   * one goes last on every instance before it goes first on any.
   */
  secret?: Secret
  /**
   * How an author's token gets to the author's next request. Default `'cookie'` with replicas. `'redis'`
   * needs `redis` or a registered client; `false` keeps it within the request.
   */
  carrier?: 'cookie' | 'header' | 'session' | 'redis' | false | Carrier
  /** Attributes of the cookie of `carrier: 'cookie'`. */
  cookie?: Partial<Omit<CookieSettings, 'maxAge'>>
  /** Name of the header. Default `'x-<name>-token'`. */
  header?: string
  /** The Redis client of `carrier: 'redis'`. */
  redis?: string | RedisClient | false
  /** Whose token `carrier: 'redis'` keeps. Default `request.session.userId`. */
  user?: (request: FastifyRequest) => string | undefined
  /** How long a token is kept; above `maxLag`, after which no replica in use is older. Default 60 s. */
  tokenTtl?: Duration
  /** False: no tokens, and any replica answers any read. Default true with replicas. */
  consistency?: boolean
  /**
   * What `db.query` does. Default `'explicit'`: it is for the primary. `autoRoute()` of `@flotilla/db-router/auto`: what is provably a pure
   * SELECT goes to a replica.
   */
  route?: 'explicit' | RouteClassifier
  /** How long a read waits for a replica to catch up before it goes to the primary. Default 50 ms. */
  maxWait?: Duration
  /** A replica further behind is not read from. Default 10 s. */
  maxLag?: Duration
  /** How long a write waits for a primary to appear, and a read for a promotion that its token is of. Default 10 s. */
  primaryWait?: Duration
  /** The primary's share for reads that no replica can answer. */
  fallback?: {
    /** Reads at a time. Default half of `pool.max`. */
    concurrency?: number
    /** Reads that may wait. Default 100 for each at a time. */
    maxWaiting?: number
    /** How long. Default 2 s. */
    wait?: Duration
  }
  /** Connections to each server. */
  pool?: {
    /** Default 10. */
    max?: number
    /** Callers that may wait for one. Default 1,000. */
    maxWaiting?: number
    /** How long they wait. Default 5 s. */
    acquireTimeout?: Duration
    /** How long connecting may take. Default 5 s. */
    connectTimeout?: Duration
    /** Default 30 s. */
    idleTimeout?: Duration
    /** Default 30 min. */
    maxLifetime?: Duration
    /** Connections to each server that stay, however long they are idle. Default 0. */
    min?: number
    /** A connection is replaced after it was lent this often. Default never. */
    maxUses?: number
    /**
     * Runs on each new connection before its first use, such as for `set search_path`. What it throws fails the caller that the
     * connection was made for. Behind a transaction pooler what it sets does not last.
     */
    onConnect?: (client: pg.PoolClient) => unknown
  }
  /** How servers are looked at. */
  monitor?: {
    /** Default 500 ms. */
    interval?: Duration
    /** Default 1 s. */
    timeout?: Duration
  }
  /**
   * A statement is cancelled after this. Default 30 s, 0 never. In a transaction and on the pools' own connections the
   * server ends it instead, a second later, with 57014; behind a transaction pooler nothing bounds those connections.
   */
  timeout?: Duration
  /** Of transactions that say nothing else. */
  transaction?: {
    /** Runs again after a serialization failure or deadlock. Default 3. */
    retries?: number
    /** Rolled back after this. Default 60 s, 0 never. */
    timeout?: Duration
  }
  /** How long `app.close()` waits for what runs. Default 10 s. */
  closeTimeout?: Duration
}

/** The options as checked, in milliseconds. */
export interface Settings {
  name: string
  primaries: ServerAddress[]
  replicas: ServerAddress[]
  secret: Secret | undefined
  carrier: 'cookie' | 'header' | 'session' | 'redis' | false | Carrier
  cookie: CookieSettings
  header: string
  redis: string | RedisClient | false | undefined
  user: (request: FastifyRequest) => string | undefined
  tokenTtl: number
  consistency: boolean
  /** `undefined` for the primary. */
  route: RouteClassifier | undefined
  maxWait: number
  maxLag: number
  primaryWait: number
  fallback: BudgetSettings
  pool: PoolSettings
  monitor: MonitorSettings
  timeout: number
  transaction: { retries: number; timeout: number }
  closeTimeout: number
}

/** @throws {OptionError} naming the first option that is wrong */
export function readOptions(input: unknown): Settings {
  const options = optionReader('@flotilla/db-router', input, OptionError)
  const primaries = readServers(options, 'primary')
  const replicas = options.has('replicas') ? readServers(options, 'replicas') : []
  if (primaries.length === 0)
    options.fail('primary', 'a postgres:// URL, a connection object, or a list of them')
  const all = [...primaries, ...replicas].map((one) => one.name)
  const twice = all.find((name, index) => all.indexOf(name) !== index)
  if (twice !== undefined) {
    throw new OptionError(
      `@flotilla/db-router: the server ${twice} is listed twice in 'primary' and 'replicas'`
    )
  }

  const name = options.string('name', 'db')
  if (!/^[\w-]+$/.test(name)) options.fail('name', 'letters, digits, _ and -')
  const consistency = options.boolean('consistency', replicas.length > 0)
  const carrier = readCarrier(options, consistency)
  const secret = options.has('secret') ? options.secret('secret', 32) : undefined
  if (secret === undefined) options.raw('secret')
  if (secret === undefined && (carrier === 'cookie' || carrier === 'header')) {
    throw new OptionError(
      `@flotilla/db-router: the ${carrier} that carries read-your-writes to the next request is signed and needs option ` +
        `'secret' (make one with: node -p "crypto.randomBytes(32).toString('base64url')"), or set carrier: false`
    )
  }
  const maxLag = options.duration('maxLag', { default: 10_000, min: 1 })
  const monitor = {
    interval: 500,
    timeout: 1_000,
    ...options.group('monitor', (group) => ({
      interval: group.duration('interval', { default: 500, min: 10 }),
      timeout: group.duration('timeout', { default: 1_000, min: 10 })
    }))
  }
  const tokenTtl = options.duration('tokenTtl', { default: Math.max(60_000, maxLag * 2), min: 1_000 })
  if (tokenTtl < maxLag + 2 * (monitor.interval + monitor.timeout)) {
    throw new OptionError(
      "@flotilla/db-router: option 'tokenTtl' must be longer than 'maxLag' and two looks of the monitor together: " +
        'a token may only be forgotten once no replica in use can be older'
    )
  }
  const transaction = {
    retries: 3,
    timeout: 60_000,
    ...options.group('transaction', (group) => ({
      retries: group.integer('retries', { default: 3, max: 100 }),
      timeout: group.duration('timeout', { default: 60_000 })
    }))
  }
  const timeout = options.duration('timeout', { default: 30_000, max: 2_147_483_647 })
  const pool = readPool(options, timeout, transaction.timeout)
  const settings: Settings = {
    name,
    primaries,
    replicas,
    secret,
    carrier,
    consistency,
    tokenTtl,
    maxLag,
    monitor,
    transaction,
    timeout,
    pool,
    cookie: readCookie(options, `flotilla-${name}`, tokenTtl),
    header: options.string('header', `x-${name}-token`).toLowerCase(),
    redis: options.raw('redis'),
    user: options.func('user', sessionUser),
    route: readRoute(options),
    maxWait: options.duration('maxWait', { default: 50, max: 10_000 }),
    primaryWait: options.duration('primaryWait', { default: 10_000 }),
    fallback: readFallback(options, pool.max),
    closeTimeout: options.duration('closeTimeout', { default: 10_000 })
  }
  options.done()
  return settings
}

function sessionUser(request: FastifyRequest): string | undefined {
  return (request as unknown as { session?: { userId?: string } }).session?.userId
}

function readServers(options: OptionReader, name: string): ServerAddress[] {
  const value = options.raw(name)
  const list: unknown[] = Array.isArray(value) ? value : [value]
  return list.map((one, index) => {
    const where = Array.isArray(value) ? `${name}[${index}]` : name
    const { password } = (one ?? {}) as { password?: unknown }
    if (password !== undefined && typeof password !== 'string' && typeof password !== 'function') {
      throw new OptionError(
        `@flotilla/db-router: option '${where}.password' must be a string or a function that returns one, got ${typeof password}`
      )
    }
    const address = parseServer(one)
    if (address) return address
    throw new OptionError(
      `@flotilla/db-router: option '${where}' must be a postgres:// URL or a connection object with a host, got ${show(one)}`
    )
  })
}

/** What came in place of a server; never a string itself, for a mistyped URL has its password all the same. */
function show(value: unknown): string {
  if (value === undefined) return 'undefined: is its environment variable set?'
  if (value === '') return "'': is its environment variable set?"
  if (value === null) return 'null'
  return `${typeof value === 'object' ? 'an' : 'a'} ${typeof value} that names none`
}

function readRoute(options: OptionReader): RouteClassifier | undefined {
  const value = options.raw<unknown>('route')
  if (value === undefined || value === 'explicit') return undefined
  const { isPureRead, remember } = (value ?? {}) as Partial<RouteClassifier>
  if (typeof isPureRead === 'function' && typeof remember === 'function') return value as RouteClassifier
  return options.fail('route', "'explicit', or autoRoute() of '@flotilla/db-router/auto'")
}

function readCarrier(options: OptionReader, consistency: boolean): Settings['carrier'] {
  const value = options.raw<Settings['carrier']>('carrier')
  if (!consistency) return false
  if (value === undefined) return 'cookie'
  if (typeof value === 'object' && value !== null) {
    if (typeof value.load === 'function' && typeof value.store === 'function') return value
    return options.fail('carrier', 'an object with load and store')
  }
  return options.oneOf('carrier', ['cookie', 'header', 'session', 'redis', false], 'cookie')
}

function readCookie(options: OptionReader, name: string, maxAge: number): CookieSettings {
  const read = (group: OptionReader | undefined): CookieSettings => ({
    name: group?.string('name', name) ?? name,
    path: group?.string('path', '/') ?? '/',
    domain: group?.string('domain', undefined),
    sameSite: group?.oneOf('sameSite', ['lax', 'strict', 'none'], 'lax') ?? 'lax',
    secure: group?.oneOf('secure', [true, false, 'auto'], 'auto') ?? 'auto',
    maxAge
  })
  return options.group('cookie', read) ?? read(undefined)
}

function readPool(options: OptionReader, statementTimeout: number, idleInTransaction: number): PoolSettings {
  const read = (group: OptionReader | undefined): PoolSettings => ({
    max: group?.integer('max', { default: 10, min: 1, max: 10_000 }) ?? 10,
    maxWaiting: group?.integer('maxWaiting', { default: 1_000 }) ?? 1_000,
    acquireTimeout: group?.duration('acquireTimeout', { default: 5_000, min: 1 }) ?? 5_000,
    connectTimeout: group?.duration('connectTimeout', { default: 5_000, min: 1 }) ?? 5_000,
    idleTimeout: group?.duration('idleTimeout', { default: 30_000, min: 1 }) ?? 30_000,
    maxLifetime: group?.duration('maxLifetime', { default: 1_800_000, min: 1_000 }) ?? 1_800_000,
    min: group?.integer('min', { default: 0, max: 10_000 }) ?? 0,
    maxUses: group?.integer('maxUses', { default: undefined, min: 1 }),
    onConnect: group?.func('onConnect', undefined),
    statementTimeout,
    idleInTransaction
  })
  const pool = options.group('pool', read) ?? read(undefined)
  if (pool.min > pool.max) options.fail('pool', `an object whose 'min' is at most its 'max', ${pool.max}`)
  return pool
}

function readFallback(options: OptionReader, max: number): BudgetSettings {
  const half = Math.max(1, Math.floor(max / 2))
  const read = (group: OptionReader | undefined): BudgetSettings => {
    const concurrency = group?.integer('concurrency', { default: half, min: 1 }) ?? half
    return {
      concurrency,
      maxWaiting: group?.integer('maxWaiting', { default: concurrency * 100 }) ?? concurrency * 100,
      wait: group?.duration('wait', { default: 2_000 }) ?? 2_000
    }
  }
  return options.group('fallback', read) ?? read(undefined)
}
