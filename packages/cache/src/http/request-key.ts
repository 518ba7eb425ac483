import type { FastifyRequest } from 'fastify'
import { BLANKS } from './cache-control.js'
import type { RouteSettings } from './route.js'

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
 * The key of the target URI (RFC 9111 §4): scheme and host as the handler sees them, path and query exactly as sent, so
 * that two URLs that only look alike never share a response. A proxy may pass on any scheme and host; no header and no
 * URL has a line break.
 */
export function uriKey(request: FastifyRequest, route: RouteSettings): string {
  return `${request.protocol}\n${request.host.toLowerCase()}\n${target(request, route)}`
}

/** What all queries of one path have in common, in any scheme: unsafe methods invalidate it. */
export function pathTag(host: string, url: string): string {
  const query = url.indexOf('?')
  return `uri:${host.toLowerCase()}${query < 0 ? url : url.slice(0, query)}`
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

function target({ raw }: FastifyRequest, { query }: RouteSettings): string {
  const url = raw.url ?? '/'
  const mark = url.indexOf('?')
  if (!query || mark < 0) return url
  const kept = url
    .slice(mark + 1)
    .split('&')
    .filter((pair) => {
      const name = pair.split('=', 1)[0]!
      // A name that is spelt in escapes is kept: what the router makes of it is not ours to guess.
      return query.has(name) || name.includes('%') || name.includes('+') || name.includes(';')
    })
  return kept.length === 0 ? url.slice(0, mark) : `${url.slice(0, mark)}?${kept.join('&')}`
}
