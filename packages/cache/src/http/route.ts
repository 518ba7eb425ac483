import { optionReader, type Duration, type Size } from '@flotilla/core'
import type { FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { OptionsError } from '../errors.js'
import type { HttpSettings } from './options.js'
import { constraintsKey } from './request-key.js'

/** `config.cache` of a route: its GET and HEAD responses go through the shared cache. */
export interface RouteCacheOptions {
  /** Freshness where the response names none itself. Absent: only what names its own is stored. */
  ttl?: Duration
  /** stale-while-revalidate where the response names none (RFC 5861). Default 0. */
  swr?: Duration
  /** stale-if-error where the response names none (RFC 5861). Default 0. */
  grace?: Duration
  /** Request headers that select between responses, known in advance: saves a look-up where the response varies by them. */
  vary?: readonly string[]
  /** Tags of the response. More can be named by the handler in a `Cache-Tag` header. */
  tags?: readonly string[] | ((request: FastifyRequest) => readonly string[])
  /** The query parameters that matter; all others are left out of the key, and the handler must ignore them. Default: all matter. */
  query?: readonly string[]
  /** Statuses to which `ttl` applies. Default 200, 203, 204, 300, 301, 308. */
  statuses?: readonly number[]
  /** Stores responses with Set-Cookie, cookie and all: every visitor gets the same one. Default false. */
  setCookie?: boolean
  /**
   * Stores the response although `request.session`, `request.user`, `request.cookies`, or the `Cookie` or `Authorization` header was read
   * while it was made. Say so only if what was read is not in the response. Default false.
   */
  shared?: boolean
  /** Default: as the plugin's `http.maxBody`. */
  maxBody?: Size
}

declare module 'fastify' {
  interface FastifyContextConfig {
    cache?: RouteCacheOptions | false
  }
}

export interface RouteSettings {
  readonly ttl: number | undefined
  readonly swr: number
  readonly grace: number
  readonly vary: readonly string[]
  readonly tags: readonly string[] | ((request: FastifyRequest) => readonly string[])
  readonly query: ReadonlySet<string> | undefined
  readonly statuses: ReadonlySet<number>
  readonly setCookie: boolean
  readonly shared: boolean
  readonly maxBody: number
  /** The route's constraints as text: another route may have the same URL. */
  readonly constraints: string
  readonly http: HttpSettings
}

const STATUSES = [200, 203, 204, 300, 301, 308]

/** @throws FLOTILLA_CACHE_ERR_OPTIONS naming the route and the option */
export function readRoute({ url, constraints, config }: RouteOptions, http: HttpSettings): RouteSettings {
  const input = config?.cache
  const options = optionReader(`@flotilla/cache: config.cache of '${url}'`, input, OptionsError)
  const tags = options.raw<RouteSettings['tags']>('tags')
  const query = options.strings('query', undefined)
  const statuses = options.raw<readonly number[]>('statuses') ?? STATUSES
  if (
    !Array.isArray(statuses) ||
    !statuses.every((one) => Number.isInteger(one) && one >= 200 && one < 600)
  ) {
    options.fail('statuses', 'a list of final HTTP statuses')
  }
  const route: RouteSettings = {
    ttl: options.duration('ttl', { default: undefined }),
    swr: options.duration('swr', { default: 0 }),
    grace: options.duration('grace', { default: 0 }),
    vary: options.strings('vary', [] as readonly string[]).map((name) => name.toLowerCase()),
    tags: typeof tags === 'function' ? tags : options.strings('tags', []),
    query: query && new Set(query),
    statuses: new Set(statuses as number[]),
    setCookie: options.boolean('setCookie', false),
    shared: options.boolean('shared', false),
    maxBody: options.size('maxBody', { default: http.maxBody }),
    constraints: constraintsKey(constraints),
    http
  }
  options.done()
  return route
}

/** The targeted field (RFC 9213) that is for this cache alone. */
export function ownControl({ http }: RouteSettings): string {
  return `${http.name}-cache-control`
}

/** All that the reply says of freshness, to be compared. */
export function freshnessHeaders(reply: FastifyReply, route: RouteSettings): string {
  const names = ['cache-control', 'expires', 'cdn-cache-control', ownControl(route)]
  return JSON.stringify(names.map((name) => reply.getHeader(name)))
}
