import { createHash } from 'node:crypto'
import type { Lifetimes } from './freshness.js'

/** What the handler said of freshness to this cache alone. A 304 that says nothing new leaves it standing. */
export interface Said {
  /** The value of `<name>-cache-control`. */
  readonly control: string | undefined
  /** `request.cacheFill.ttl()` in milliseconds. */
  readonly ttl: number | undefined
}

/** A response as it is kept. Times in milliseconds; `at` is when it was stored, by the clock of the instance that stored it. */
export interface StoredResponse {
  readonly status: number
  /** Lower-case names; as the handler and its hooks left them, without what belongs to one connection. */
  readonly headers: readonly (readonly [string, string | string[]])[]
  readonly body: Buffer
  readonly at: number
  /** Its age when it was stored: what an upstream's Age said. */
  readonly age: number
  readonly fresh: number
  readonly swr: number
  readonly sie: number
  /** May answer a request with Authorization (RFC 9111 §3.5). */
  readonly shared: boolean
  /** Stale copies must not be served, whatever the client says. */
  readonly strict: boolean
  readonly etag: string | undefined
  readonly modified: string | undefined
  /** The validators are the handler's own: it may be asked whether they still hold. */
  readonly validators: boolean
  readonly said: Said
}

/** Stands for a URL whose responses vary by more than the route's options say. */
export interface VaryPointer {
  readonly vary: readonly string[]
  /** The response by which that became known, and the variant that it is. It is stored by the fill of the URL: no write gets between. */
  readonly first?: { readonly variant: string; readonly response: StoredResponse }
}

export function isPointer(stored: StoredResponse | VaryPointer): stored is VaryPointer {
  return 'vary' in stored
}

/** RFC 9110 §7.6.1 and what describes one exchange rather than the response. */
const NEVER_STORED = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authentication-info',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'age',
  'cache-status',
  'content-length',
  'cache-tag'
])

export function storedHeaders(
  headers: Record<string, number | string | string[] | undefined>,
  except: readonly string[]
): [string, string | string[]][] {
  const connection = String(headers['connection'] ?? '').toLowerCase()
  const listed = new Set(connection.split(',').map((name) => name.trim()))
  const kept: [string, string | string[]][] = []
  for (const [name, value] of Object.entries(headers)) {
    const lower = name.toLowerCase()
    if (value === undefined || NEVER_STORED.has(lower) || listed.has(lower) || except.includes(lower))
      continue
    kept.push([lower, Array.isArray(value) ? value.map(String) : String(value)])
  }
  return kept
}

export function headerOf(headers: StoredResponse['headers'], name: string): string | undefined {
  const found = headers.find(([one]) => one === name)?.[1]
  return Array.isArray(found) ? found.join(', ') : found
}

/** Not replaced by a 304 (RFC 9111 §3.2): they say what the stored body is. */
export const DESCRIBES_BODY = [
  'content-encoding',
  'content-length',
  'content-md5',
  'content-range',
  'content-type',
  'etag'
] as const

/** A strong validator of exactly these bytes. */
export function etagOf(body: Buffer): string {
  return `"${createHash('sha1').update(body).digest('base64url')}"`
}

export function ageOf(stored: StoredResponse, now: number): number {
  return stored.age + Math.max(0, now - stored.at)
}

/**
 * The stored response with the headers of a 304 over its own (RFC 9111 §3.2), fresh again.
 *
 * @param headers without {@link DESCRIBES_BODY}
 */
export function freshened(
  stored: StoredResponse,
  headers: readonly (readonly [string, string | string[]])[],
  life: Lifetimes,
  said: Said,
  now: number
): StoredResponse {
  const updated = new Map(stored.headers)
  for (const [name, value] of headers) updated.set(name, value)
  return {
    ...stored,
    headers: [...updated],
    at: now,
    age: life.age,
    fresh: life.fresh,
    swr: life.swr,
    sie: life.sie,
    shared: life.shared,
    strict: life.strict,
    said
  }
}

/** How long a response with validators of its own is kept past its freshness, to ask the handler about. */
const KEPT_FOR_VALIDATION = 3_600_000

/** Milliseconds: kept although stale from the start; 0 would not be kept. */
const NOT_FRESH = 0.001

/** How long it is known at least by what the responses of a URL vary. */
const MIN_POINTER_TTL = 60_000

/** How long the store keeps a response, and when it computes another. */
export function lifeInStore(
  stored: StoredResponse,
  life: Lifetimes,
  inPointer: boolean
): { ttlMs: number; swrMs: number; graceMs: number } {
  const ttlMs = Math.max(NOT_FRESH, life.fresh - life.age)
  // Within stale-while-revalidate, too, a handler that fails is left alone for a while.
  const graceMs = Math.max(life.sie, life.swr, stored.validators ? KEPT_FOR_VALIDATION : 0)
  if (!inPointer) return { ttlMs, swrMs: life.swr, graceMs }
  // By what it varies is known for longer than the response is fresh; a look at the response itself shows whether it is.
  return { ttlMs: Math.max(MIN_POINTER_TTL, ttlMs + graceMs), swrMs: 0, graceMs: 0 }
}
