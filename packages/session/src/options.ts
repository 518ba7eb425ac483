import type { CookieSerializeOptions } from '@fastify/cookie'
import {
  type Duration,
  type OptionReader,
  optionReader,
  type Secret,
  type Size,
  type StandardSchema
} from '@flotilla/core'
import type { RedisClient } from '@flotilla/redis'
import { ERR_OPTION } from './errors.js'

/** Attributes of the session cookie, besides what the plugin decides itself. */
export interface SessionCookieOptions extends Omit<
  CookieSerializeOptions,
  'signed' | 'encode' | 'expires' | 'maxAge' | 'secure' | 'httpOnly'
> {
  /**
   * Base name, default `sid`. With `secure`, path `/` and no `domain` the browser gets it as `__Host-sid`,
   * otherwise, where still secure, as `__Secure-sid` (RFC 6265bis §4.1.3).
   */
  name?: string
  /**
   * `true` (default): always Secure. `'auto'`: Secure on https requests as `request.protocol` says (set
   * `trustProxy` behind a proxy), the plain name and no Secure on http. `false`: never.
   */
  secure?: boolean | 'auto'
  /** Sends Max-Age, so that the cookie outlives the browser: the rest of `absoluteTimeout`. Default false. */
  persistent?: boolean
}

/** Reads are answered from memory; the fleet bus drops what another instance changed or revoked. */
export interface LocalOptions {
  /** No entry is used for longer, whatever the bus says. Default `'5s'`. */
  maxAge?: Duration
  /** Sessions held at most. Default 10,000. */
  max?: number
  /** Their total size at most. Default `'64mb'`. */
  maxSize?: Size
}

/** Renewal of the cookie while a session is in use. */
export interface RenewOptions {
  /** A session in use gets a new cookie this often (OWASP Session Management, "Renewal Timeout"). Default: only by `session.renew()`. */
  every?: Duration
  /**
   * How long the previous cookie keeps working once its successor has been presented, for requests already under way. Default `'30s'`, at
   * most 10 minutes. Until then it works in any case: a response that is lost logs no user out.
   */
  grace?: Duration
}

/** How many sessions one user may have. */
export interface MaxPerUserOptions {
  /** At most this many at the same time. */
  max: number
  /** What a login beyond that does: `'end-oldest'` (default) ends the oldest ones, `'refuse'` throws. */
  onExceed?: 'refuse' | 'end-oldest'
}

/** What must survive a failover of Redis. */
export interface DurableOptions {
  /** Replicas that must have a login, logout or revoke before it resolves. Default 1. */
  replicas?: number
  /** How long to wait for them. Default `'1s'`. */
  timeout?: Duration
}

/** Options of the plugin. */
export interface SessionOptions<Data extends object = object> {
  /** Signs the cookie (and is the root of `encrypt`). At least 32 bytes; a list rotates: the first signs, all verify. */
  secret: Secret
  /**
   * The client: a namespace of `@fastify/redis`, an ioredis client, or by default `fastify.redis`. `false`: sessions in this process's memory,
   * for tests, development and apps on one box.
   */
  redis?: string | RedisClient | false
  /** Before every key. Default `session:`, and `session:<cookie name>:` where the cookie has another name. */
  prefix?: string
  /** A session not used for this long ends. Default `'30m'`. */
  idleTimeout?: Duration
  /** A session ends this long after login, however busy. Default `'24h'`. */
  absoluteTimeout?: Duration
  /** How stale the idle deadline may get before a request that changed nothing moves it. Default `idleTimeout` / 10. */
  touchInterval?: Duration
  /** The session cookie. */
  cookie?: SessionCookieOptions
  /** A new cookie from time to time. Default never. */
  renew?: RenewOptions
  /**
   * What happens when a cookie is presented whose successor is in use and whose grace is over: a copy of it was stolen, or replayed. `'end'`
   * (default) ends the session, for the thief and the owner alike (RFC 9700 §4.14.2); `'reject'` only refuses that cookie.
   */
  onReuse?: 'end' | 'reject'
  /** Sessions kept in memory, dropped through the fleet bus. Default none. */
  local?: LocalOptions
  /** AES-256-GCM for each field, under keys made from the secret and the cookie. Default false. */
  encrypt?: boolean
  /** While Redis is away: `'fail'` answers 503 with Retry-After; `'anonymous'` gives an empty, read-only session. */
  onOutage?: 'fail' | 'anonymous'
  /** Sent as Retry-After with those 503s, in whole seconds. Default `'5s'`. */
  retryAfter?: Duration
  /** Waits for replicas at login, logout and revoke. Default none. */
  durable?: DurableOptions
  /** How many sessions one user may have; counted and enforced in the script that opens one. Default any number. */
  maxPerUser?: MaxPerUserOptions
  /** What a session's data may take, keys and values. Default `'256kb'`. */
  maxSize?: Size
  /** Value of `Clear-Site-Data` at logout; `true` means `"cache", "cookies", "storage"`. Default false. */
  clearSiteData?: boolean | string
  /** A Standard Schema (zod, valibot, arktype, …) for the data, checked when loaded and when saved. */
  schema?: StandardSchema<unknown, Data>
  /** Version of the data's shape; data of an older one goes through `migrate`. Default 1. */
  version?: number
  /** Brings data of an older version up to date; its result is validated and saved. */
  migrate?: (data: Record<string, unknown>, from: number) => Data | Promise<Data>
}

/** Attributes of one response's session cookie, for `session.options`. */
export interface SessionCookieAttributes {
  /** How long the browser keeps it, within the absolute timeout: milliseconds or a string such as `'7d'`. */
  maxAge?: Duration
  /** Sends Max-Age for the rest of the absolute timeout, or never. */
  persistent?: boolean
  /** As in RFC 6265bis; `true` is `'strict'`. Default as in `register`. `'none'` needs Secure. */
  sameSite?: 'lax' | 'strict' | 'none' | boolean
  /** One cookie jar for each top-level site (CHIPS). It needs Secure. */
  partitioned?: boolean
  /** Which cookies a browser evicts first. */
  priority?: 'low' | 'medium' | 'high'
}

export type CookieSettings = Omit<SessionCookieOptions, 'name' | 'secure' | 'persistent'> & {
  readonly name: string
  readonly secure: boolean | 'auto'
  readonly persistent: boolean
}

/** {@link SessionOptions} after validation: milliseconds, bytes, no gaps. */
export interface Settings {
  readonly secret: Secret
  readonly redis: string | RedisClient | false | undefined
  readonly prefix: string
  readonly idleTimeout: number
  readonly absoluteTimeout: number
  readonly touchInterval: number
  readonly cookie: CookieSettings
  /** Milliseconds; without `every` only by `session.renew()`. */
  readonly renew: { readonly every: number | undefined; readonly grace: number }
  readonly onReuse: 'end' | 'reject'
  readonly local: { readonly maxAge: number; readonly max: number; readonly maxSize: number } | undefined
  readonly encrypt: boolean
  readonly onOutage: 'fail' | 'anonymous'
  /** Seconds. */
  readonly retryAfter: number
  readonly durable: { readonly replicas: number; readonly timeout: number } | undefined
  readonly maxPerUser: { readonly max: number; readonly endOldest: boolean } | undefined
  readonly maxSize: number
  readonly clearSiteData: string | undefined
  readonly schema: StandardSchema | undefined
  readonly version: number
  readonly migrate: ((data: Record<string, unknown>, from: number) => object | Promise<object>) | undefined
}

const COOKIE_NAME = /^[\w!#$%&'*+.^`|~-]+$/
const COOKIE = { name: 'sid', secure: true, persistent: false } as const
const GRACE = 30_000
/** A year. */
export const MAX_TIMEOUT = 365 * 24 * 3_600_000

/**
 * Checks everything before anything is opened.
 * @throws FLOTILLA_SESSION_ERR_OPTION naming the option
 */
export function readOptions(input: unknown): Settings {
  const read = optionReader('@flotilla/session', input, ERR_OPTION)
  const idleTimeout = read.duration('idleTimeout', { default: 30 * 60_000, min: 1_000, max: MAX_TIMEOUT })
  const absoluteTimeout = read.duration('absoluteTimeout', {
    default: 24 * 3_600_000,
    min: 1_000,
    max: MAX_TIMEOUT
  })
  if (absoluteTimeout < idleTimeout) read.fail('absoluteTimeout', 'at least as long as idleTimeout')
  const cookie = read.group('cookie', readCookie) ?? COOKIE
  const clearSiteData = read.raw<boolean | string>('clearSiteData') ?? false
  if (
    typeof clearSiteData !== 'boolean' &&
    (typeof clearSiteData !== 'string' || !clearSiteData.startsWith('"'))
  ) {
    read.fail('clearSiteData', 'true, false or a header value such as \'"cookies"\'')
  }
  const schema = read.raw<StandardSchema>('schema')
  if (schema !== undefined && typeof schema?.['~standard']?.validate !== 'function') {
    read.fail('schema', 'a Standard Schema (an object with `~standard`.validate)')
  }
  const renew = read.group('renew', (group) => ({
    every: group.has('every') ? group.duration('every', { default: 0, min: 1_000 }) : undefined,
    grace: group.duration('grace', { default: GRACE, max: 10 * 60_000 })
  }))
  const settings: Settings = {
    secret: read.secret('secret', 32),
    redis: read.raw<string | RedisClient | false>('redis'),
    prefix: read.string('prefix', cookie.name === 'sid' ? 'session:' : `session:${cookie.name}:`),
    idleTimeout,
    absoluteTimeout,
    touchInterval: read.duration('touchInterval', { default: idleTimeout / 10, max: idleTimeout / 2 }),
    cookie,
    renew: renew ?? { every: undefined, grace: GRACE },
    onReuse: read.oneOf('onReuse', ['end', 'reject'], 'end'),
    maxPerUser: read.group('maxPerUser', (group) => ({
      max: group.has('max')
        ? group.integer('max', { default: 0, min: 1, max: 10_000 })
        : group.fail('max', 'a number'),
      endOldest: group.oneOf('onExceed', ['refuse', 'end-oldest'], 'end-oldest') === 'end-oldest'
    })),
    local: read.group('local', (group) => ({
      maxAge: group.duration('maxAge', { default: 5_000, min: 1, max: 10 * 60_000 }),
      max: group.integer('max', { default: 10_000, min: 1 }),
      maxSize: group.size('maxSize', { default: 64 * 1024 ** 2, min: 1024 })
    })),
    encrypt: read.boolean('encrypt', false),
    onOutage: read.oneOf('onOutage', ['fail', 'anonymous'], 'fail'),
    retryAfter: Math.max(1, Math.ceil(read.duration('retryAfter', { default: 5_000 }) / 1_000)),
    durable: read.group('durable', (group) => ({
      replicas: group.integer('replicas', { default: 1, min: 1 }),
      timeout: group.duration('timeout', { default: 1_000, min: 1 })
    })),
    maxSize: read.size('maxSize', { default: 256 * 1024, min: 128 }),
    clearSiteData: clearSiteData === true ? '"cache", "cookies", "storage"' : clearSiteData || undefined,
    schema,
    version: read.integer('version', { default: 1, min: 1 }),
    migrate: read.func<NonNullable<Settings['migrate']>, undefined>('migrate', undefined)
  }
  if (/[{}]/.test(settings.prefix)) read.fail('prefix', 'without `{` and `}`, which choose the Cluster slot')
  read.done()
  return settings
}

/**
 * Checks what one response's cookie is to have by the rules of `register`.
 * @throws FLOTILLA_SESSION_ERR_OPTION naming the attribute
 */
export function readCookieAttributes(
  input: SessionCookieAttributes,
  { secure }: CookieSettings
): {
  readonly attributes: CookieSerializeOptions
  readonly maxAge: number | undefined
  readonly persistent: boolean | undefined
} {
  const read = optionReader('@flotilla/session: session.options()', input, ERR_OPTION)
  for (const fixed of FIXED) {
    if (read.has(fixed))
      read.fail(fixed, 'left out: it is the same for every response, see the option `cookie`')
  }
  const attributes = readAttributes(read, secure)
  const maxAge = read.duration('maxAge', { default: undefined, min: 1_000 })
  const persistent = read.boolean('persistent', undefined)
  read.done()
  return { attributes, maxAge, persistent }
}

/** What decides whether browsers take a later cookie for the same one, and what keeps it from scripts. */
const FIXED = ['domain', 'path', 'secure', 'httpOnly', 'signed', 'encode', 'expires', 'name']

function readAttributes(read: OptionReader, secure: boolean | 'auto'): CookieSerializeOptions {
  const given = {
    sameSite: read.oneOf('sameSite', ['lax', 'strict', 'none', true, false], undefined),
    partitioned: read.boolean('partitioned', undefined),
    priority: read.oneOf('priority', ['low', 'medium', 'high'], undefined)
  }
  if (secure === false && (given.sameSite === 'none' || given.partitioned)) {
    read.fail(
      given.partitioned ? 'partitioned' : 'sameSite',
      "used with cookie.secure true or 'auto' only: browsers refuse SameSite=None and Partitioned without Secure"
    )
  }
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
}

function readCookie(read: OptionReader): Settings['cookie'] {
  for (const refused of ['signed', 'encode', 'expires', 'maxAge', 'httpOnly']) {
    if (read.keys().includes(refused)) {
      read.fail(
        refused,
        'left out: the plugin signs the value, keeps it from scripts and sets its lifetime (`cookie.persistent`)'
      )
    }
  }
  const name = read.string('name', COOKIE.name)
  if (!COOKIE_NAME.test(name)) read.fail('name', 'of cookie-name characters')
  if (/^__(host|secure)-/i.test(name))
    read.fail('name', 'without __Host- or __Secure-, which are added where they apply')
  const secure = read.oneOf('secure', [true, false, 'auto'], COOKIE.secure)
  const where = { domain: read.string('domain', undefined), path: read.string('path', undefined) }
  const attributes = {
    ...Object.fromEntries(Object.entries(where).filter(([, value]) => value !== undefined)),
    ...readAttributes(read, secure)
  }
  return { ...attributes, name, secure, persistent: read.boolean('persistent', COOKIE.persistent) }
}
