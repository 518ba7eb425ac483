import type { Readable } from 'node:stream'
import { isPersonal } from '@flotilla/core'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { FactoryContext } from '../factory.js'
import { tellRequest } from '../telemetry.js'
import { cacheStatus, joined, type CacheStatus } from './cache-status.js'
import { hasValidators, namesSame, notModified, strip } from './conditional.js'
import { HookHeaders } from './hook-headers.js'
import { judge, replacesStored, type Judgement, type Lifetimes } from './freshness.js'
import { bodyOf, intercept, isStream, tagsOf } from './payload.js'
import { forwardedReads, noteReader, watchHandler } from './personal-reads.js'
import { RecordedStream } from './recorded-stream.js'
import { freshnessHeaders, ownControl } from './route.js'
import { addVary, answerUnstored, applyStored, controlBrowsers, part } from './serve.js'
import {
  ageOf,
  DESCRIBES_BODY,
  etagOf,
  freshened,
  headerOf,
  lifeInStore,
  storedHeaders,
  type Said,
  type StoredResponse,
  type VaryPointer
} from './stored-response.js'
import type { ExchangeParts, Varied } from './visit.js'

/** One request whose handler runs to fill the cache: what comes out is kept, where it may be, and sent. */
export class Exchange {
  /** What is stored; `undefined` for nothing. Rejects where a stored response serves in place of an error. */
  readonly outcome: Promise<StoredResponse | VaryPointer | undefined>
  readonly #parts: ExchangeParts
  readonly #stale: StoredResponse | undefined
  readonly #authorized: boolean
  readonly #hookHeaders: HookHeaders
  readonly #began = Date.now()
  #said: Said = { control: undefined, ttl: undefined }
  /** By what the responses turn out to vary. */
  #varied: Varied | undefined
  /** The freshness that headers named when the handler threw an error: it was not meant for that. */
  #beforeError: string | undefined
  #settled = false
  #recording = false
  #resolve!: (stored: StoredResponse | VaryPointer | undefined) => void
  #reject!: (error: Error) => void

  constructor(request: FastifyRequest, reply: FastifyReply, parts: ExchangeParts) {
    this.#parts = parts
    const stale = parts.context.stale as StoredResponse | VaryPointer | undefined
    this.#stale = stale && 'body' in stale ? stale : parts.first
    this.#authorized = request.raw.headers.authorization !== undefined
    this.outcome = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.outcome.catch(() => undefined)
    this.#hookHeaders = new HookHeaders(reply)
    this.#watch(request, reply)
    // With a stored response to compare with, 304 is about that one.
    if (!parts.untouched || this.#stale) strip(request.raw.headers)
    this.#askWhetherChanged(request)
  }

  /** What the handler may say of the value and ask about it. */
  get context(): FactoryContext {
    return this.#parts.context
  }

  /** The request ended without a response that passed our hook: its client has gone, perhaps. */
  abandon(): void {
    // The body is read to its end for the others.
    if (this.#recording) return
    if (!this.#settled) this.#parts.context.abandoned = true
    this.#skip()
  }

  /** The handler has answered and `preSerialization` hooks have run. */
  sending(request: FastifyRequest, reply: FastifyReply): void {
    noteReader(request, 'hooks')
    this.#hookHeaders.sending(reply)
  }

  /** Takes in the response on its way out; returns what is sent. */
  capture(request: FastifyRequest, reply: FastifyReply, payload: unknown): unknown {
    noteReader(request, 'cache')
    const sent = this.#capture(request, reply, payload)
    noteReader(request, 'app')
    return sent
  }

  #capture(request: FastifyRequest, reply: FastifyReply, payload: unknown): unknown {
    const now = Date.now()
    const { route, conditions } = this.#parts
    const { statusCode } = reply
    const stale = this.#stale
    if (stale && statusCode === 304) return this.#confirmed(request, reply, stale, now)
    if (stale && statusCode >= 500 && ageOf(stale, now) - stale.fresh <= stale.sie) {
      this.#reject(new Error(`the handler answered ${statusCode}`))
      for (const name of Object.keys(reply.getHeaders()))
        if (name.startsWith('content-')) reply.removeHeader(name)
      this.#say(reply, { hit: true, fwdStatus: statusCode, ttl: stale.fresh - ageOf(stale, now) })
      return applyStored(reply, stale, conditions, route, now, true)
    }
    const judgement = this.#judge(request, reply, statusCode, now)
    this.#hookHeaders.tellRepresentationsApart(reply)
    if (!judgement.storable) {
      if (this.#parts.context.background) this.#refreshFailed(statusCode, judgement.reason)
      // A request with Authorization does not wait anyway, and says nothing of what others get.
      else if (!this.#authorized) this.#parts.unshareable(statusCode)
      return this.#pass(reply, payload, judgement.reason)
    }
    const more = judgement.vary.filter((name) => !this.#parts.vary.includes(name))
    if (more.length > 0) this.#varied = this.#parts.varied(more)
    if (more.length > 0 && !this.#varied) {
      this.#skip()
      this.#say(reply, { fwd: this.#parts.fwd, detail: 'varies' })
      return payload
    }
    if (isStream(payload)) return this.#record(request, reply, payload, judgement)
    const body = bodyOf(payload)
    if (!body || body.length > route.maxBody) {
      this.#parts.unshareable(statusCode)
      return this.#pass(reply, payload, 'body')
    }
    const validators = hasValidators(reply)
    if (!reply.hasHeader('etag') && statusCode === 200) reply.header('etag', etagOf(body))
    if (!reply.hasHeader('date')) reply.header('date', new Date(now).toUTCString())
    const stored = this.#keep(
      statusCode,
      this.#hookHeaders.without(reply.getHeaders()),
      body,
      judgement,
      validators,
      now
    )
    controlBrowsers(reply, route)
    this.#say(reply, { fwd: this.#parts.fwd, ttl: stored.fresh - stored.age, stored: true })
    if (notModified(conditions, stored)) {
      reply.code(304).removeHeader('content-length').removeHeader('content-type')
      return null
    }
    if (conditions.range === undefined) return payload
    reply.removeHeader('content-length')
    return part(reply, stored, conditions)
  }

  /** Notes what the handler reads about the visitor, when it answers, and whether it does so behind Fastify's back. */
  #watch(request: FastifyRequest, reply: FastifyReply): void {
    const { route } = this.#parts
    if (!route.shared) watchHandler(request, route.http.identity)
    intercept(
      reply,
      (payload) => {
        if (payload instanceof Error) this.#beforeError = freshnessHeaders(reply, route)
        this.sending(request, reply)
      },
      () => {
        this.#parts.unshareable(reply.statusCode)
        this.#skip()
      }
    )
  }

  /** Asks the handler for 304 where what is stored still holds; its own validators are what it can judge. */
  #askWhetherChanged({ raw }: FastifyRequest): void {
    const stale = this.#stale
    if (!stale?.validators) return
    if (stale.etag !== undefined) raw.headers['if-none-match'] = stale.etag
    if (stale.modified !== undefined) raw.headers['if-modified-since'] = stale.modified
  }

  /** Judges the response by all that the handler said of it; what it said to this cache alone is not passed on. */
  #judge(request: FastifyRequest, reply: FastifyReply, status: number, now: number): Judgement {
    const { context, route } = this.#parts
    const own = ownControl(route)
    context.tags(tagsOf(reply))
    const judgement = judge({
      status,
      headers: reply.getHeaders(),
      authorized: this.#authorized,
      personal: isPersonal(request),
      forwarded: forwardedReads(request),
      route,
      explicit: this.#beforeError === undefined || this.#beforeError !== freshnessHeaders(reply, route),
      said: context,
      began: this.#began,
      now
    })
    const control = reply.getHeader(own)
    this.#said = {
      control: control === undefined ? undefined : [control].flat().join(', '),
      ttl: context.ttlMs
    }
    reply.removeHeader(own).removeHeader('cache-tag')
    return judgement
  }

  #confirmed(
    request: FastifyRequest,
    reply: FastifyReply,
    stale: StoredResponse,
    now: number
  ): Buffer | null {
    const { conditions, context, route } = this.#parts
    if (!namesSame(reply, stale)) {
      // Of another response than the one it was asked about, which must not live on by it (RFC 9111 §4.3.4).
      this.#skip()
      this.#parts.drop()
      this.#say(reply, { fwd: 'stale', fwdStatus: 304, detail: 'validators' })
      reply.removeHeader('content-length')
      return applyStored(reply, stale, conditions, route, now, true)
    }
    for (const name of DESCRIBES_BODY) reply.removeHeader(name)
    if (!reply.hasHeader('date')) reply.header('date', new Date(now).toUTCString())
    const vary = headerOf(stale.headers, 'vary')
    if (vary !== undefined) addVary(reply, vary)
    const own = ownControl(route)
    const fresh = storedHeaders(this.#hookHeaders.without(reply.getHeaders()), [own])
    // What it does not say anew still holds.
    for (const [name, value] of stale.headers) if (!reply.hasHeader(name)) reply.header(name, value)
    const { control, ttl } = stale.said
    if (control !== undefined && !reply.hasHeader(own)) reply.header(own, control)
    context.ttlMs ??= ttl
    context.tags(context.staleTags)
    const judgement = this.#judge(request, reply, stale.status, now)
    if (!judgement.storable) {
      this.#skip()
      this.#say(reply, { fwd: 'stale', fwdStatus: 304, detail: judgement.reason })
      return applyStored(reply, { ...stale, at: now, age: 0 }, conditions, route, now)
    }
    const updated = freshened(stale, fresh, judgement.life, this.#said, now)
    this.#settle(updated, judgement.life)
    this.#say(reply, { fwd: 'stale', fwdStatus: 304, ttl: updated.fresh - updated.age, stored: true })
    return applyStored(reply, updated, conditions, route, now)
  }

  #keep(
    status: number,
    headers: Record<string, number | string | string[] | undefined>,
    body: Buffer,
    { life, except }: Extract<Judgement, { storable: true }>,
    validators: boolean,
    now: number
  ): StoredResponse {
    const kept = storedHeaders(headers, except)
    if (status === 200 && headerOf(kept, 'etag') === undefined) kept.push(['etag', etagOf(body)])
    const etag = headerOf(kept, 'etag')
    const modified = headerOf(kept, 'last-modified')
    const said = this.#said
    const stored: StoredResponse = {
      status,
      headers: kept,
      body,
      at: now,
      ...life,
      etag,
      modified,
      validators,
      said
    }
    this.#settle(stored, life)
    return stored
  }

  /** Passes a stream on and records it, for as long as it is not too long. */
  #record(
    request: FastifyRequest,
    reply: FastifyReply,
    payload: Readable,
    judgement: Extract<Judgement, { storable: true }>
  ): Readable {
    const { context, route } = this.#parts
    const validators = hasValidators(reply)
    const now = Date.now()
    if (!reply.hasHeader('date')) reply.header('date', new Date(now).toUTCString())
    const { statusCode } = reply
    const headers = this.#hookHeaders.without(reply.getHeaders())
    controlBrowsers(reply, route)
    const declared = reply.getHeader('content-length')
    this.#recording = true
    const recorded = new RecordedStream(payload, {
      maxBytes: route.maxBody,
      onWhole: (body) => {
        // Shorter than it was announced: cut off. And what makes the body may have read the session by now.
        const whole = declared === undefined || Number(declared) === body.length
        if (isPersonal(request)) this.#parts.unshareable(statusCode)
        if (!whole || isPersonal(request) || context.skipped) this.#skip()
        else this.#keep(statusCode, headers, body, judgement, validators, now)
      },
      onLost: () => {
        this.#parts.unshareable(statusCode)
        this.#skip()
      }
    })
    context.signal.addEventListener('abort', () => recorded.giveUp(), { once: true })
    this.#say(reply, { fwd: this.#parts.fwd })
    return recorded
  }

  /**
   * What a refresh in the background answers and cannot be stored. If that is a failure, or depends on the visitor whose
   * request was repeated, the stored response is served on and the handler is left alone for `backoff`. Otherwise what is
   * stored is replaced by something that cannot be stored.
   */
  #refreshFailed(status: number, reason: string): void {
    if (replacesStored(status, reason)) this.#parts.drop()
    else if (!this.#settled) {
      this.#settled = true
      this.#reject(new Error(`the refresh answered ${status}, which is not stored: ${reason}`))
    }
  }

  #pass(reply: FastifyReply, payload: unknown, detail: string): unknown {
    this.#skip()
    this.#say(reply, { fwd: this.#parts.fwd, detail })
    return this.#parts.untouched || reply.request.method !== 'GET'
      ? payload
      : answerUnstored(reply, payload, this.#parts.conditions)
  }

  #settle(stored: StoredResponse, life: Lifetimes): void {
    const { context } = this.#parts
    Object.assign(context, lifeInStore(stored, life, this.#varied !== undefined))
    const usable = life.fresh > life.age || life.swr > 0 || life.sie > 0
    this.#parts.unshareable(usable ? undefined : stored.status)
    this.#settled = true
    if (!this.#varied) return this.#resolve(stored)
    const { vary, variant } = this.#varied
    this.#resolve({ vary, first: { variant, response: stored } })
  }

  #skip(): void {
    if (this.#settled) return
    this.#settled = true
    this.#parts.context.skip()
    this.#resolve(undefined)
  }

  #say(reply: FastifyReply, status: CacheStatus): void {
    const { route, context } = this.#parts
    const own = cacheStatus(route.http.name, status)
    // A refresh in the background answers no request of a client.
    if (!context.background) tellRequest(reply.request, own, status.hit === true)
    reply.header('cache-status', joined(own, reply.getHeader('cache-status')))
  }
}
