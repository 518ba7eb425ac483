import { inspect } from 'node:util'
import { hasRoutes, markPersonal } from '@flotilla/core'
import type {
  DoneFuncWithErrOrRes,
  FastifyContextConfig,
  FastifyInstance,
  FastifyReply,
  FastifyRequest
} from 'fastify'
import { channels } from '../diagnostics.js'
import { ERR_OPTION } from '../errors.js'
import { type PendingOperations, SessionState } from '../lifecycle/session-state.js'
import type { RedisClock } from '../store/clock.js'
import type { Changes } from '../store/session-store.js'
import type { SessionToken } from '../store/token.js'
import type { SessionCookie } from './cookie.js'
import type { SessionParts } from './session-access.js'
import { withProperties } from './session-properties.js'
import { Session } from './session.js'

const kState = Symbol('flotilla.session.request-state')
const kSession = Symbol('flotilla.session.request-session')

/** Data is there as properties, too: see {@link withProperties}. */
type RequestSession = FastifyRequest['session']

type Mode = FastifyContextConfig['session']

interface WithSession extends FastifyRequest {
  [kState]: SessionState | null
  [kSession]: RequestSession | null
}

export interface HookParts extends SessionParts {
  readonly clock: RedisClock
  /** A cookie names a secret that is not listed here. */
  readonly foreignSecret: (keyId: string) => void
  /** Work after the response, to be finished before the app closes. */
  readonly later: (work: Promise<void>) => void
}

/** `request.session`, read on the way in, saved on the way out. */
export function addSessionHooks(fastify: FastifyInstance, parts: HookParts): void {
  const { later, writer } = parts
  const modeOf = readModes(fastify, parts.cookie)
  const isShared = readShared(fastify)
  const response = new SessionResponse(parts)

  fastify.decorateRequest(kState, null)
  fastify.decorateRequest(kSession, null)
  fastify.decorateRequest('session', {
    getter(this: FastifyRequest): RequestSession {
      const request = this as WithSession
      if (request[kSession]) return request[kSession]
      let state = request[kState]
      if (!state) {
        // Probing for a session, as siblings do, must not throw if there is none.
        if (modeOf(request) === false) return undefined as unknown as RequestSession
        state = begin(request, 'none')
      }
      if (!isShared(request)) markPersonal(request)
      const session = withProperties(new Session(state, parts)) as RequestSession
      request[kSession] = session
      return session
    }
  })

  fastify.addHook('onRequest', (request, _reply, done) => openPresented(request, parts, modeOf, done))

  fastify.addHook('onSend', (request, reply, payload, done) => {
    const state = (request as WithSession)[kState]
    if (!state) return done()
    if (state.operations?.open)
      return waitFor(state.operations, payload).then(() => response.conclude(request, reply, state, payload))
    let saving: Promise<void> | undefined
    try {
      saving = response.conclude(request, reply, state, payload)
    } catch (error) {
      return done(error as Error)
    }
    return saving ?? done()
  })

  fastify.addHook('onResponse', (request: FastifyRequest, _reply: FastifyReply, done) => {
    const state = (request as WithSession)[kState]
    if (state && !state.failed && writer.touchDue(state)) later(writer.touchLater(state))
    done()
  })
}

function begin(request: FastifyRequest, phase: 'none' | 'lazy', token?: SessionToken): SessionState {
  const state = new SessionState(phase, token, request)
  state.response = 'ahead'
  ;(request as WithSession)[kState] = state
  return state
}

/** Reads the session that the request presents; returns a promise only if the store has to be asked. */
function openPresented(
  request: FastifyRequest,
  { cookie, tokens, loader, foreignSecret }: HookParts,
  modeOf: (request: FastifyRequest) => Mode,
  done: DoneFuncWithErrOrRes
): Promise<void> | void {
  const value = cookie.read(request)
  if (value === undefined) return done()
  const mode = modeOf(request)
  if (mode === false) return done()
  const token = tokens.verify(value)
  if (!token) {
    const keyId = tokens.foreignKeyId(value)
    if (keyId !== undefined) foreignSecret(keyId)
    if (channels.rejected.active)
      channels.rejected.publish({
        ip: request.ip,
        reason: keyId === undefined ? 'invalid' : 'unknown-secret'
      })
    return done()
  }
  const state = begin(request, mode === 'lazy' ? 'lazy' : 'none', token)
  if (mode === 'lazy') return done()
  try {
    if (loader.openHeld(state)) return done()
  } catch (error) {
    if (!loader.dropUnreadable(state, error)) return done(error as Error)
    return done()
  }
  return loader.open(state)
}

/** What the session does to a response before its headers are sent. */
class SessionResponse {
  readonly #parts: HookParts

  constructor(parts: HookParts) {
    this.#parts = parts
  }

  /**
   * Saves before the headers are sent: the browser must not be able to come back, through another instance, to
   * what is not saved yet. Returns a promise only if the store has to be asked.
   */
  conclude(
    request: FastifyRequest,
    reply: FastifyReply,
    state: SessionState,
    payload: unknown
  ): Promise<void> | undefined {
    // Also if an error handler of the user's own does not look at `error.headers`.
    if (state.refusal && reply.statusCode === 503) reply.headers(state.refusal)
    state.response = 'past'
    if (state.failed) return undefined
    const { writer, loader, cookie } = this.#parts
    let changes: Changes | undefined
    try {
      changes = writer.pending(state)
    } catch (error) {
      if (loader.dropUnreadable(state, error)) return undefined
      throw fail(state, payload, error)
    }
    if (changes || this.#renewDue(state) || this.#clearDue(state))
      return this.#saveAndWrite(request, reply, state, { changes, payload })
    if (state.cookie !== 'keep') cookie.write(state, request, reply)
    return undefined
  }

  async #saveAndWrite(
    request: FastifyRequest,
    reply: FastifyReply,
    state: SessionState,
    { changes, payload }: { readonly changes: Changes | undefined; readonly payload: unknown }
  ): Promise<void> {
    const { writer, lifecycle, loader, cookie } = this.#parts
    try {
      if (changes && state.phase === 'none') await lifecycle.create(state)
      else if (changes) await writer.save(state, changes)
      if (this.#renewDue(state)) {
        const { key } = state.record!
        if ((await lifecycle.renew(state)) === 'ended') writer.refused(state, key)
      }
      if (this.#clearDue(state) && (await lifecycle.isGone(state.presented!))) state.cookie = 'clear'
    } catch (error) {
      if (loader.dropUnreadable(state, error)) return
      throw state.refuse(fail(state, payload, error))
    }
    if (state.cookie !== 'keep') cookie.write(state, request, reply)
  }

  /** A session that was given another verifier in this request is new enough. */
  #renewDue({ phase, record, token, cookie }: SessionState): boolean {
    const { settings, clock } = this.#parts
    return (
      settings.renew.every !== undefined &&
      phase === 'live' &&
      cookie !== 'clear' &&
      token !== undefined &&
      token === record!.token &&
      clock.now() - record!.meta.renewedAt >= settings.renew.every
    )
  }

  /** A cookie that opens nothing costs a read each time that it is sent. */
  #clearDue({ stale, phase, cookie }: SessionState): boolean {
    return stale && phase === 'none' && cookie === 'keep'
  }
}

/** Most apps configure no route, and then no request needs to look: `routeOptions` builds an object each time. */
function readModes(fastify: FastifyInstance, cookie: SessionCookie): (request: FastifyRequest) => Mode {
  // Fastify does not report what routes that are there already configure.
  let configured = hasRoutes(fastify)
  fastify.addHook('onRoute', ({ config, method, url }) => {
    if (modeIn(config, method, url) !== undefined) configured = true
  })
  return (request) => {
    // The browser would not bring the session back.
    if (!cookie.covers(request.originalUrl)) return false
    if (!configured) return undefined
    const { config, method, url } = request.routeOptions
    return modeIn(config, method, url)
  }
}

/** Whether a route's `config.cache.shared` says that nothing of the session is in its response, so that @flotilla/cache may store it. */
function readShared(fastify: FastifyInstance): (request: FastifyRequest) => boolean {
  let configured = hasRoutes(fastify)
  fastify.addHook('onRoute', ({ config }) => {
    if (sharedIn(config)) configured = true
  })
  return (request) => configured && sharedIn(request.routeOptions.config)
}

function sharedIn(config: object | undefined): boolean {
  const { cache } = (config ?? {}) as { readonly cache?: { readonly shared?: unknown } | false | null }
  return cache ? cache.shared === true : false
}

/** @throws FLOTILLA_SESSION_ERR_OPTION naming the route */
function modeIn(
  config: { readonly session?: unknown } | undefined,
  method: string | readonly string[] | undefined,
  url: string | undefined
): Mode {
  const mode = config?.session
  if (mode === undefined || mode === false || mode === 'lazy') return mode
  throw new ERR_OPTION(
    `@flotilla/session: route ${String(method)} ${url}: config.session must be false or 'lazy', got ${inspect(mode)}`
  )
}

/** Waits for what the handler did not await. A failure becomes the response's, as if the handler had awaited it. */
async function waitFor(operations: PendingOperations, payload: unknown): Promise<void> {
  try {
    await operations.ended()
  } catch (error) {
    abandon(payload)
    throw error
  }
}

/** Saving failed, and an error is sent in place of the payload. @returns the error, to be thrown */
function fail(state: SessionState, payload: unknown, error: unknown): unknown {
  state.failed = true
  state.response = 'ahead'
  abandon(payload)
  return error
}

/** A stream that will not be sent, because the session could not be saved, must not stay open. */
function abandon(payload: unknown): void {
  const stream = payload as { destroy?: () => void } | null
  if (typeof stream?.destroy === 'function') stream.destroy()
}
