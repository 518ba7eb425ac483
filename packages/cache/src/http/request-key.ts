import type { FastifyRequest } from 'fastify'
import { BLANKS } from './cache-control.js'
import type { RouteSettings } from './route.js'
import { equivalent } from './url-identity.js'

/** Headers by which some frameworks change what a request means; what they yield is never shared. */
const OVERRIDES = [
  'x-http-method-override',
  'x-http-method',
  'x-method-override',
  'x-original-url',
  'x-rewrite-url'
] as const

/** Why this request must neither be answered from the cache nor fill it; `undefined` where it may. */
export function bypassReason({ raw }: FastifyRequest): string | undefined {
  const { headers } = raw
  for (const name of OVERRIDES) if (headers[name] !== undefined) return 'override'
  // The handler may answer in another protocol, on a socket that cannot be shared.
  if (headers.upgrade !== undefined) return 'upgrade'
  // A body on GET has no meaning that a key could hold ("fat GET").
  if (headers['transfer-encoding'] !== undefined) return 'body'
  const length = headers['content-length']
  return length !== undefined && length !== '0' ? 'body' : undefined
}

/**
 * The key of the target URI (RFC 9111 §4): scheme and host as the handler sees them, path and query as sent but for
 * equivalent escapes, so that two URLs that only look alike never share a response. What else decides which handler runs, or what it sees as the
 * URL, comes after it: the route's constraints, a `Host` other than the one that a proxy named, a URL before it was
 * rewritten. A proxy may pass on any scheme and host; no header and no URL has a line break.
 */
export function uriKey(request: FastifyRequest, route: RouteSettings): string {
  const { protocol, host, raw, originalUrl } = request
  let key = `${protocol}\n${host.toLowerCase()}\n${target(request, route)}`
  if (route.constraints !== '') key += `\n!${route.constraints}`
  const named = raw.headers.host ?? raw.headers[':authority'] ?? host
  if (named !== host) key += `\n@${String(named).toLowerCase()}`
  if (isProxied(request)) {
    // What Fastify has made of these is in the key above; the handler may make something else of them.
    for (const [name, seen] of [
      ['x-forwarded-host', host],
      ['x-forwarded-proto', protocol]
    ] as const) {
      const value = raw.headers[name]
      if (value !== undefined && value !== seen) key += `\n${name}=${String(value)}`
    }
  }
  if (originalUrl !== raw.url) key += `\n<${originalUrl}`
  return key
}

/** Whether the app trusts a proxy: only then has the request a list of addresses. */
export function isProxied({ ips }: FastifyRequest): boolean {
  return ips !== undefined
}

/**
 * The constraints of a route as text; empty if it has none. Routes with one URL and different constraints differ in it.
 */
export function constraintsKey(constraints: Record<string, unknown> | undefined): string {
  return Object.entries(constraints ?? {})
    .filter(([, value]) => value !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `${JSON.stringify(name)}:${constraintKey(value)}`)
    .join()
}

function constraintKey(value: unknown): string {
  if (typeof value === 'object' && value !== null && !(value instanceof RegExp)) {
    return JSON.stringify(value) ?? ''
  }
  return `${typeof value} ${JSON.stringify(String(value))}`
}

/** The values of the selecting headers, in one form for spellings that mean the same (RFC 9111 §4.1). */
export function variantKey(request: FastifyRequest, names: readonly string[]): string {
  let key = ''
  for (const name of names) {
    const value = request.raw.headers[name]
    const text = value === undefined ? '' : Array.isArray(value) ? value.join(',') : value
    key += `\n${name}:${value === undefined ? '' : '='}${name.startsWith('accept') ? normalized(text) : text.trim()}`
  }
  return key
}

function normalized(value: string): string {
  return value
    .toLowerCase()
    .replaceAll(BLANKS, ' ')
    .replaceAll(/\s*([,;=])\s*/g, '$1')
    .trim()
}

/** A name that every parser of queries takes for itself and nothing else. */
const PLAIN_NAME = /^[\w-]+$/

/**
 * The URL, without the query parameters that the route leaves out. Parsers differ in what they make of brackets, dots,
 * letter case and separators: what this app's parser found under the names that matter is part of the key, and so is each
 * pair whose name might mean one of them.
 */
function target({ raw, query: parsed }: FastifyRequest, { query }: RouteSettings): string {
  const url = equivalent(raw.url ?? '/')
  const mark = url.indexOf('?')
  if (!query || mark < 0) return url
  const kept = url
    .slice(mark + 1)
    .split('&')
    .filter((pair) => {
      const name = pair.split('=', 1)[0]!
      return query.has(name) || !PLAIN_NAME.test(name)
    })
  const path = kept.length === 0 ? url.slice(0, mark) : `${url.slice(0, mark)}?${kept.join('&')}`
  const found = [...query]
    .map((name) => [name, (parsed as Record<string, unknown> | null | undefined)?.[name]])
    .filter(([, value]) => value !== undefined)
  // No pair of the URL can hold a line break.
  return found.length === 0 ? path : `${path}\n${JSON.stringify(found)}`
}
