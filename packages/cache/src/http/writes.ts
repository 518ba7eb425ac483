import type { FastifyBaseLogger, FastifyReply, FastifyRequest, RouteHandlerMethod } from 'fastify'
import type { Cache } from '../cache.js'
import { hostIdentity, type UrlIdentity } from './url-identity.js'

const SAFE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE'])

export function isUnsafe(method: string): boolean {
  return !SAFE.has(method.toUpperCase())
}

/**
 * Invalidates what unsafe requests change (RFC 9111 §4.4): every query of their target, and of what `Location` and
 * `Content-Location` name on the same host.
 *
 * Below 400 that happens before the client hears of the success. A handler that throws, so that the answer is 5xx, may have
 * written before: the target is invalidated, and once more if the handler ends later. A hijacked reply is invalidated at once,
 * and again when it has ended. If the handler itself sends an error, or a hook answers instead, nothing has changed.
 */
export class Writes {
  readonly #cache: Cache
  readonly #identity: UrlIdentity
  readonly #log: FastifyBaseLogger
  /** What the paths of cached routes begin with, up to the first parameter: another method may name those otherwise. */
  readonly #cached = new Set<string>()
  /** Requests whose handler has begun. */
  readonly #handled = new WeakSet<FastifyRequest>()
  /** Requests that an error was thrown for. */
  readonly #failed = new WeakSet<FastifyRequest>()
  /** Some URL was rewritten before it was routed: the paths that clients name are not those of routes. */
  #rewritten = false

  constructor(cache: Cache, identity: UrlIdentity, log: FastifyBaseLogger) {
    this.#cache = cache
    this.#identity = identity
    this.#log = log
  }

  /** What of a path a route with `config.cache` answers may be stored from now on. */
  addCachedRoute(url: string): void {
    const path = this.#identity.path(url.split(/[:*]/, 1)[0]!)
    this.#cached.add(path.endsWith('/') ? path.slice(0, -1) : path)
  }

  /** The handler of an unsafe method, whose runs are noted. */
  wrap(handler: RouteHandlerMethod): RouteHandlerMethod {
    const begin = (request: FastifyRequest, reply: FastifyReply): void => this.begin(request, reply)
    const watchEnd = this.#watchEnd.bind(this)
    return function (request, reply) {
      if (!isUnsafe(request.method)) return handler.call(this, request, reply)
      begin(request, reply)
      const result: unknown = handler.call(this, request, reply)
      if (result instanceof Promise) watchEnd(request, reply, result)
      return result
    }
  }

  /** The handler of an unsafe request begins. */
  begin(request: FastifyRequest, reply: FastifyReply): void {
    this.#handled.add(request)
    const hijack = reply.hijack.bind(reply)
    reply.hijack = () => {
      const { raw } = reply
      const named = (): unknown[] => [raw.getHeader('location'), raw.getHeader('content-location')]
      void this.#try(request, named())
      raw.once('close', () => void this.#try(request, named()))
      return hijack()
    }
  }

  /** An error was thrown, by the handler or by a hook. */
  failed(request: FastifyRequest): void {
    this.#failed.add(request)
  }

  /** On the way out of any response. */
  async sending(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    if (!isUnsafe(request.method)) return
    const { statusCode } = reply
    if (statusCode < 400) {
      await this.#invalidate(request, [reply.getHeader('location'), reply.getHeader('content-location')])
    } else if (this.#mayHaveWritten(request, reply)) await this.#try(request, [])
  }

  /** A handler that had taken too long, so that 503 was sent for it, may write after that. */
  #watchEnd(request: FastifyRequest, reply: FastifyReply, end: Promise<unknown>): void {
    const ended = (): void => {
      if (reply.sent && this.#mayHaveWritten(request, reply)) void this.#try(request, [])
    }
    end.then(ended, ended)
  }

  #mayHaveWritten(request: FastifyRequest, { statusCode }: FastifyReply): boolean {
    return statusCode >= 500 && this.#handled.has(request) && this.#failed.has(request)
  }

  async #try(request: FastifyRequest, named: readonly unknown[]): Promise<void> {
    try {
      await this.#invalidate(request, named)
    } catch (error) {
      this.#log.warn(
        { err: error, url: request.url },
        'a write was not invalidated in Redis; it is sent again'
      )
    }
  }

  async #invalidate(request: FastifyRequest, named: readonly unknown[]): Promise<void> {
    const { host, originalUrl, raw } = request
    const url = raw.url ?? '/'
    if (originalUrl !== url) this.#rewritten = true
    const tags = this.#mayBeCached(url) ? this.#identity.tags(request) : []
    const base = `http://${host}${this.#identity.path(originalUrl)}`
    for (const value of named) {
      if (typeof value !== 'string' || !URL.canParse(base) || !URL.canParse(value, base)) continue
      const target = new URL(value, base)
      if (hostIdentity(target.host) !== hostIdentity(host) || !this.#mayBeCached(target.pathname)) continue
      tags.push(this.#identity.tag(host, target.pathname))
    }
    if (tags.length > 0) await this.#cache.invalidateTags([...new Set(tags)])
  }

  #mayBeCached(url: string): boolean {
    if (this.#rewritten) return this.#cached.size > 0
    const path = this.#identity.path(url)
    return [...this.#cached].some((prefix) => path.startsWith(prefix))
  }
}
