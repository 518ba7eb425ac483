import { isPersonal, markPersonal } from '@flotilla/core'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Cache } from '../cache.js'
import type { GetOrSetOptions } from '../engine.js'
import type { Context, Factory, FactoryContext } from '../factory.js'
import { checkTags } from '../options.js'
import { tellRequest as tell } from '../telemetry.js'
import { Batches } from './batches.js'
import { cacheStatus, type CacheStatus } from './cache-status.js'
import { conditionsOf } from './conditional.js'
import { Exchange } from './exchange.js'
import { HitForMiss } from './hit-for-miss.js'
import { isIdentified } from './personal-reads.js'
import { refresh, refreshOf, snapshot } from './refresh.js'
import { bypassReason, uriKey, variantKey } from './request-key.js'
import { ResponseStore, type Stored } from './response-store.js'
import type { RouteSettings } from './route.js'
import { applyStored, undoHooks } from './serve.js'
import { ageOf, isPointer, type StoredResponse } from './stored-response.js'
import type { UrlIdentity } from './url-identity.js'
import { usable } from './usable.js'
import { NONE, requestDirectives, run, runAsync, sent, type Place, type Visit } from './visit.js'

/** A shared cache in front of handlers (RFC 9111), kept in a namespace of the cache: tags purge both. */
export class ResponseCache {
  readonly #fastify: FastifyInstance
  readonly #store: ResponseStore
  readonly #identity: UrlIdentity
  readonly #exchanges = new WeakMap<FastifyRequest, Exchange>()
  readonly #hitForMiss = new HitForMiss()
  readonly #refreshes = new Batches<Stored | undefined>()
  /** What requests are answered with, until their hooks have run. */
  readonly #sent = new WeakMap<FastifyRequest, { stored: StoredResponse; typed: boolean }>()
  /** What is stored for GET, of HEAD requests that the handler answers. */
  readonly #heads = new WeakMap<FastifyRequest, { place: Place; stored: StoredResponse }>()

  constructor(fastify: FastifyInstance, cache: Cache, identity: UrlIdentity) {
    this.#fastify = fastify
    this.#identity = identity
    this.#store = new ResponseStore(cache)
  }

  /** What the handler of a request that fills the cache may say and ask. */
  contextOf(request: FastifyRequest): FactoryContext | undefined {
    return this.#exchanges.get(request)?.context
  }

  /** In place of the handler: answers, or lets it run. Returns what Fastify is to wait for, as a handler does. */
  visit(
    request: FastifyRequest,
    reply: FastifyReply,
    route: RouteSettings,
    handle: Visit['handle']
  ): unknown {
    if (!route.shared && isIdentified(request)) markPersonal(request)
    const { headers } = request.raw
    const control = headers['cache-control']
    const wishes =
      control === undefined && headers.pragma === undefined ? NONE : requestDirectives(headers, route)
    const visit: Visit = {
      request,
      reply,
      handle,
      route,
      conditions: conditionsOf(headers),
      wishes,
      authorized: headers.authorization !== undefined
    }
    const reason = isPersonal(request)
      ? 'personal'
      : wishes.has('no-store')
        ? 'no-store'
        : bypassReason(request)
    if (reason !== undefined) return this.#pass(visit, { fwd: 'bypass', detail: reason })
    const uri = uriKey(request, route)
    const base = uri + variantKey(request, route.vary)
    return this.#lookUp(visit, { uri, base, key: base, vary: route.vary })
  }

  /** The handler's value is about to be serialized. */
  sending(request: FastifyRequest, reply: FastifyReply): void {
    this.#exchanges.get(request)?.sending(request, reply)
  }

  /** On the way out: takes in what a handler made for the cache. */
  capture(request: FastifyRequest, reply: FastifyReply, payload: unknown): unknown {
    const exchange = this.#exchanges.get(request)
    if (!exchange) {
      const answered = this.#sent.get(request)
      if (answered) undoHooks(reply, answered.stored, answered.typed)
      if (request.method === 'HEAD') this.#compare(request, reply)
      return payload
    }
    this.#exchanges.delete(request)
    return exchange.capture(request, reply, payload)
  }

  #lookUp(visit: Visit, place: Place): unknown {
    const held = this.#store.held(place.key)
    const stored = (held?.value as Stored | undefined) ?? place.first
    if (stored && isPointer(stored)) {
      if (place.key === place.base)
        return this.#lookUp(visit, this.#store.variant(visit.request, place, stored))
    } else if (stored) {
      const now = Date.now()
      const use = usable(stored, visit.wishes, visit.authorized, now)
      // A stale one that the client did not ask for starts a refresh, which is the store's to do.
      if (use === 'fresh' || (use === 'stale' && visit.wishes.has('max-stale'))) {
        return this.#send(visit, stored, now, false)
      }
    }
    if (visit.request.method === 'HEAD') return this.#head(visit, place)
    const refreshing = refreshOf(place.key)
    if (refreshing) {
      refreshing.exchange = this.#lead(visit, place, refreshing.context, 'stale')
      return run(visit)
    }
    const known = stored && !isPointer(stored) ? stored : undefined
    return new Promise((resolve, reject) => {
      this.#ask(visit, place, known, resolve).then(resolve, reject)
    })
  }

  /**
   * The value from Redis, from another request's handler, or from this one's.
   *
   * @param led is given what this one's handler returns: the fill waits for the response that Fastify makes of it
   */
  async #ask(
    visit: Visit,
    place: Place,
    held: StoredResponse | undefined,
    led: (result: Promise<unknown>) => void
  ): Promise<unknown> {
    const { request, route, wishes } = visit
    if (wishes.has('only-if-cached')) return this.#onlyIfCached(visit, place)
    if (visit.authorized && held && !held.shared) return this.#pass(visit, { fwd: 'request' })
    const impatient = visit.authorized || this.#hitForMiss.isUnshareable(place.key)
    if (impatient && this.#store.isUnderWay(place.key)) return this.#beside(visit, place)
    if (!this.#store.admits(place)) return this.#beside(visit, place)
    const again = snapshot(request)
    let leads = false
    const factory: Factory<Stored | undefined> = (context) => {
      if (context.background) return refresh(this.#fastify, place.key, again, context as unknown as Context)
      leads = true
      const fwd =
        wishes.size > 0 && held
          ? 'request'
          : held
            ? 'stale'
            : place.key === place.base
              ? 'uri-miss'
              : 'vary-miss'
      const exchange = this.#lead(visit, place, context as unknown as Context, fwd)
      led(runAsync(visit))
      return exchange.outcome
    }
    const options: GetOrSetOptions = {
      tags: this.#tags(request, route),
      // What memory holds is not what the client wants: nor would be what Redis holds.
      refresh:
        wishes.has('no-cache') || (held !== undefined && usable(held, NONE, false, Date.now()) === 'fresh'),
      impatient
    }
    const ask = (): Promise<Stored | undefined> =>
      this.#store.fill(place.key, factory, options).catch(() => undefined)
    const shared = options.refresh === true && !impatient
    const stored = shared ? await this.#refreshes.run(place.key, ask) : await ask()
    if (leads) return undefined
    if (shared && stored && !isPointer(stored) && usable(stored, NONE, false, Date.now()) === 'fresh') {
      return this.#send(visit, stored, Date.now(), true)
    }
    if (!stored) {
      const { first } = place
      if (first && usable(first, wishes, visit.authorized, Date.now()))
        return this.#send(visit, first, Date.now(), true)
      return this.#pass(visit, { fwd: 'uri-miss' })
    }
    if (isPointer(stored)) {
      if (place.key === place.base)
        return this.#lookUp(visit, this.#store.variant(visit.request, place, stored))
      return this.#pass(visit, { fwd: 'vary-miss' })
    }
    if (usable(stored, wishes, visit.authorized, Date.now())) {
      return this.#send(visit, stored, Date.now(), held === undefined)
    }
    return this.#pass(visit, { fwd: 'request' })
  }

  /** While another request asks the handler: from the store, else from this one's own handler, which stores nothing. */
  async #beside(visit: Visit, place: Place): Promise<unknown> {
    if (!visit.wishes.has('no-cache')) {
      const stored = await this.#store.read(place)
      if (stored && isPointer(stored) && place.key === place.base) {
        return this.#lookUp(visit, this.#store.variant(visit.request, place, stored))
      }
      if (stored && !isPointer(stored) && usable(stored, visit.wishes, visit.authorized, Date.now())) {
        return this.#send(visit, stored, Date.now(), false)
      }
    }
    return this.#pass(visit, { fwd: 'uri-miss' })
  }

  /** What the handler, which is about to run, answers is taken in. */
  #lead(
    { request, reply, route, conditions }: Visit,
    place: Place,
    context: Context,
    fwd: NonNullable<CacheStatus['fwd']>
  ): Exchange {
    const exchange = new Exchange(request, reply, {
      route,
      context,
      conditions,
      vary: place.vary,
      fwd,
      first: place.first,
      varied: (more) => this.#store.varied(request, place, more),
      unshareable: (status) => this.#hitForMiss.note(place.key, status),
      untouched: request.raw.headers.authorization !== undefined || this.#hitForMiss.isUntouched(place.key),
      drop: () => this.#store.drop(place.key)
    })
    this.#exchanges.set(request, exchange)
    this.#store.note(place, exchange.outcome)
    // From then on it has a key of its own.
    if (place.first)
      void exchange.outcome.then(
        (stored) => stored && this.#store.point(place.base, place.vary),
        () => undefined
      )
    reply.raw.once('close', () => exchange.abandon())
    return exchange
  }

  /** RFC 9111 §5.2.1.7: what is stored, or 504. */
  async #onlyIfCached(visit: Visit, place: Place): Promise<unknown> {
    const stored = await this.#store.read(place)
    if (stored && isPointer(stored) && place.key === place.base) {
      return this.#onlyIfCached(visit, this.#store.variant(visit.request, place, stored))
    }
    if (stored && !isPointer(stored) && usable(stored, visit.wishes, visit.authorized, Date.now())) {
      return this.#send(visit, stored, Date.now(), false)
    }
    const status = cacheStatus(visit.route.http.name, { detail: 'only-if-cached' })
    tell(visit.request, status, false)
    visit.reply
      .code(504)
      .header('cache-status', status)
      .send({ statusCode: 504, error: 'Gateway Timeout', message: 'Nothing is stored for this request' })
    return sent(visit)
  }

  /**
   * HEAD is answered from a stored GET. If nothing is stored, one GET in the fleet is made for all that wait for it, since a
   * handler may answer HEAD without a body.
   */
  async #head(visit: Visit, place: Place): Promise<unknown> {
    let stored = await this.#store.read(place)
    if (
      !stored &&
      visit.wishes.size === 0 &&
      !visit.authorized &&
      this.#store.admits(place) &&
      !this.#hitForMiss.isUnshareable(place.key)
    ) {
      stored = await this.#getForHead(visit, place)
    }
    if (visit.wishes.has('only-if-cached')) return this.#onlyIfCached(visit, place)
    if (stored && isPointer(stored) && place.key === place.base) {
      return this.#head(visit, this.#store.variant(visit.request, place, stored))
    }
    if (stored && !isPointer(stored)) {
      if (usable(stored, visit.wishes, visit.authorized, Date.now())) {
        return this.#send(visit, stored, Date.now(), false)
      }
      this.#heads.set(visit.request, { place, stored })
    }
    return this.#pass(visit, { fwd: stored ? 'request' : 'uri-miss' })
  }

  async #getForHead({ request, route }: Visit, place: Place): Promise<Stored | undefined> {
    const again = snapshot(request)
    const factory = (context: FactoryContext): Promise<Stored | undefined> =>
      refresh(this.#fastify, place.key, again, context as unknown as Context)
    try {
      return await this.#store.fill(place.key, factory, { tags: this.#tags(request, route) })
    } catch {
      this.#hitForMiss.note(place.key, 500)
      return undefined
    }
  }

  #tags(request: FastifyRequest, route: RouteSettings): readonly string[] {
    // Not ours to answer for: the route's own may throw or be no tags, which fails its request.
    const own = checkTags(typeof route.tags === 'function' ? route.tags(request) : route.tags)
    return [...own, ...this.#identity.tags(request)]
  }

  /** RFC 9111 §4.3.5: validators that the handler gives to HEAD and that are not the stored ones tell of a change. */
  #compare(request: FastifyRequest, reply: FastifyReply): void {
    const head = this.#heads.get(request)
    if (!head || reply.statusCode !== 200) return
    const { etag, modified } = head.stored
    const changed = (name: string, known: string | undefined): boolean =>
      reply.hasHeader(name) && reply.getHeader(name) !== known
    if (changed('etag', etag) || changed('last-modified', modified)) this.#store.drop(head.place.key)
  }

  #send(visit: Visit, stored: StoredResponse, now: number, collapsed: boolean): unknown {
    const { reply, route, conditions, request } = visit
    const status = cacheStatus(route.http.name, {
      hit: true,
      ttl: stored.fresh - ageOf(stored, now),
      collapsed
    })
    const payload = applyStored(reply, stored, conditions, route, now)
    reply.header('cache-status', status)
    tell(request, status, true)
    if (payload !== null) this.#sent.set(request, { stored, typed: reply.hasHeader('content-type') })
    reply.send(payload ?? undefined)
    return sent(visit)
  }

  #pass(visit: Visit, status: CacheStatus): unknown {
    const { request, reply, route } = visit
    const value = cacheStatus(route.http.name, status)
    reply.header('cache-status', value)
    tell(request, value, false)
    return run(visit)
  }
}
