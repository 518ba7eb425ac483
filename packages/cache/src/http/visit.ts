import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Context } from '../factory.js'
import { parseCacheControl, type Directives } from './cache-control.js'
import type { CacheStatus } from './cache-status.js'
import type { Conditions } from './conditional.js'
import type { RouteSettings } from './route.js'
import type { StoredResponse } from './stored-response.js'

/** Where a response is looked for: under the headers of the route's options, or those a response named. */
export interface Place {
  /** Under no headers at all. */
  readonly uri: string
  readonly base: string
  readonly key: string
  readonly vary: readonly string[]
  /** What is stored with the name of what it varies by, until there is something under the key. */
  readonly first?: StoredResponse | undefined
}

/** One request on its way through the cache. */
export interface Visit {
  readonly request: FastifyRequest
  readonly reply: FastifyReply
  /** Runs the handler; returns what it returns. */
  readonly handle: () => unknown
  readonly route: RouteSettings
  readonly conditions: Conditions
  readonly wishes: Directives
  readonly authorized: boolean
}

/** What an exchange is given and may change. */
export interface ExchangeParts {
  readonly route: RouteSettings
  readonly context: Context
  readonly conditions: Conditions
  /** Request headers by which stored responses of this URL are told apart so far. */
  readonly vary: readonly string[]
  readonly fwd: NonNullable<CacheStatus['fwd']>
  /** Notes that the responses of this URL vary by these as well; what to store with this one, if it can be. */
  readonly varied: (vary: readonly string[]) => Varied | undefined
  /** Stored for this request before: the handler is asked whether it still holds. */
  readonly first: StoredResponse | undefined
  /** The response can be shared, or cannot: then others do not wait for the next one. Its status, if it cannot. */
  readonly unshareable: (status: number | undefined) => void
  /** The handler gets the conditions of the request: its answer is most likely not stored. */
  readonly untouched: boolean
  /** What is stored is not to be used again. */
  readonly drop: () => void
}

/** By what the responses of a URL vary, and which of them this request selects. */
export interface Varied {
  readonly vary: readonly string[]
  readonly variant: string
}

/** The request directives of a client that asks nothing. */
export const NONE: Directives = new Map()

/** What the client asks of the cache (RFC 9111 §5.2.1, §5.4). */
export function requestDirectives(headers: IncomingHttpHeaders, { http }: RouteSettings): Directives {
  const control = headers['cache-control']
  const directives =
    parseCacheControl(control ?? (headers.pragma?.includes('no-cache') ? 'no-cache' : '')) ?? NONE
  if (!http.ignoreRequestDirectives) return directives
  return new Map([...directives].filter(([name]) => name === 'only-if-cached' || name === 'max-stale'))
}

/** For Fastify to wait for: a response that has not gone out with the call that sends it. */
export function sent({ reply }: Visit): FastifyReply | undefined {
  return reply.sent ? undefined : reply
}

/** What the handler returns. One that returns nothing sends by itself, sooner or later: to a promise that would be a body. */
export function run(visit: Visit): unknown {
  const result = visit.handle()
  return result === undefined ? sent(visit) : result
}

export async function runAsync(visit: Visit): Promise<unknown> {
  return run(visit)
}
