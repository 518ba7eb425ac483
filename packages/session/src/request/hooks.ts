import { inspect } from 'node:util'
import type { FastifyContextConfig, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { hasRoutes, markPersonal } from '@flotilla/core'
import { channels } from '../diagnostics.js'
import type { RedisClock } from '../store/clock.js'
import type { SessionCookie } from './cookie.js'
import { ERR_OPTION } from '../errors.js'
import type { SessionIdentity } from '../lifecycle/session-lifecycle.js'
import type { Operations } from './operations.js'
import type { Settings } from '../options.js'
import type { SessionReader } from '../lifecycle/reader.js'
import { Session, type SessionParts, withProperties } from './session.js'
import { SessionState } from '../lifecycle/session-state.js'
import type { Changes } from '../store/store.js'
import type { Ticketing } from '../store/token.js'
import type { SessionWriter } from '../lifecycle/writer.js'

const kState = Symbol('flotilla.session.request-state')
const kSession = Symbol('flotilla.session.request-session')

type Mode = FastifyContextConfig['session']

interface WithSession extends FastifyRequest {
  [kState]: SessionState | null
  [kSession]: Session | null
}

export interface HookParts extends SessionParts {
  readonly cookie: SessionCookie
  readonly reader: SessionReader
  readonly writer: SessionWriter
  readonly identity: SessionIdentity
  readonly ticketing: Ticketing
  readonly clock: RedisClock
  readonly settings: Settings
  /** Work after the response, to be finished before the app closes. */
  readonly later: (work: Promise<void>) => void
}

/** `request.session`, read on the way in, saved on the way out. */
export function addSessionHooks(fastify: FastifyInstance, parts: HookParts): void {
  const { cookie, reader, writer, identity, ticketing, clock, settings, later } = parts
  // Most apps configure no route, and then no request needs to look: `routeOptions` builds an object each time. Of
  // routes that are there already Fastify does not tell what they configure.
  let configured = hasRoutes(fastify)
  fastify.addHook('onRoute', ({ config, method, url }) => {
    if (modeIn(config, method, url) !== undefined) configured = true
  })
  const modeOf = (request: FastifyRequest): Mode => {
    if (!configured) return undefined
    const { config, method, url } = request.routeOptions
    return modeIn(config, method, url)
  }
  const begin = (
    request: FastifyRequest,
    phase: 'none' | 'lazy',
    ticket?: ReturnType<Ticketing['verify']>
  ): SessionState => {
    const state = new SessionState(phase, ticket, request)
    state.response = 'ahead'
    ;(request as WithSession)[kState] = state
    return state
  }

  fastify.decorateRequest(kState, null)
  fastify.decorateRequest(kSession, null)
  fastify.decorateRequest('session', {
    getter(this: FastifyRequest): Session {
      const request = this as WithSession
      if (request[kSession]) return request[kSession]
      let state = request[kState]
      if (!state) {
        // Probing for a session, as siblings do, must not throw where there is none.
        if (modeOf(request) === false) return undefined as unknown as Session
        state = begin(request, 'none')
      }
      markPersonal(request)
      const session = withProperties(new Session(state, parts))
      request[kSession] = session
      return session
    }
  })

  fastify.addHook('onRequest', (request, _reply, done) => {
    const value = cookie.read(request)
    if (value === undefined) return done()
    const mode = modeOf(request)
    if (mode === false) return done()
    const ticket = ticketing.verify(value)
    if (!ticket) {
      if (channels.rejected.active) channels.rejected.publish({ ip: request.ip })
      return done()
    }
    const state = begin(request, mode === 'lazy' ? 'lazy' : 'none', ticket)
    if (mode === 'lazy') return done()
    try {
      if (reader.openHeld(state)) return done()
    } catch (error) {
      return done(reader.drop(state, error) ? undefined : (error as Error))
    }
    return reader.open(state)
  })

  const save = async (
    request: FastifyRequest,
    reply: FastifyReply,
    state: SessionState,
    changes: Changes | undefined,
    payload: unknown
  ): Promise<void> => {
    try {
      if (changes) await writer.commit(state, changes)
      if (renewDue(state)) await identity.renew(state, settings.renew!.grace)
    } catch (error) {
      if (reader.drop(state, error)) return
      throw state.refuse(fail(state, payload, error))
    }
    if (state.cookie !== 'keep') cookie.write(state, request, reply)
  }
  // An id other than the one that was found is new already.
  const renewDue = ({ phase, found, place }: SessionState): boolean =>
    settings.renew !== undefined &&
    phase === 'live' &&
    place!.ticket === found!.ticket &&
    clock.now() - found!.meta.renewedAt >= settings.renew.every

  /** What the handler did not wait for: it fails as if it had. */
  const ended = async (operations: Operations, payload: unknown): Promise<void> => {
    try {
      await operations.ended()
    } catch (error) {
      abandon(payload)
      throw error
    }
  }

  // Before the headers are sent: the browser must not be able to come back, through another instance, to
  // what is not saved yet.
  const conclude = (
    request: FastifyRequest,
    reply: FastifyReply,
    state: SessionState,
    payload: unknown
  ): Promise<void> | undefined => {
    // Also where an error handler of the user's own does not look at `error.headers`.
    if (state.refusal && reply.statusCode === 503) reply.headers(state.refusal)
    state.response = 'past'
    if (state.failed) return undefined
    let changes: Changes | undefined
    try {
      changes = writer.pending(state)
    } catch (error) {
      if (reader.drop(state, error)) return undefined
      throw fail(state, payload, error)
    }
    if (changes || renewDue(state)) return save(request, reply, state, changes, payload)
    if (state.cookie !== 'keep') cookie.write(state, request, reply)
    return undefined
  }

  fastify.addHook('onSend', (request, reply, payload, done) => {
    const state = (request as WithSession)[kState]
    if (!state) return done()
    if (state.operations?.open)
      return ended(state.operations, payload).then(() => conclude(request, reply, state, payload))
    let saving: Promise<void> | undefined
    try {
      saving = conclude(request, reply, state, payload)
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
