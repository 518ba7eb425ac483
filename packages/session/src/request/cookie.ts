import type { CookieSerializeOptions } from '@fastify/cookie'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Settings } from '../options.js'
import type { SessionState } from '../lifecycle/session-state.js'
import type { Ticketing } from '../store/token.js'

/** Reads and writes the browser's cookie. */
export interface SessionCookie {
  /** The value as the browser sent it, of whatever origin. */
  read(request: FastifyRequest): string | undefined
  /** Does to the response what the state asks for. */
  write(state: SessionState, request: FastifyRequest, reply: FastifyReply): void
}

export interface CookieParts {
  readonly settings: Settings
  readonly ticketing: Ticketing
  readonly log: FastifyRequest['log']
  /** By Redis's clock. */
  readonly now: () => number
}

export function createCookie({ settings, ticketing, log, now }: CookieParts): SessionCookie {
  const { name: base, secure: security, persistent, ...attributes } = settings.cookie
  const path = attributes.path ?? '/'
  // RFC 6265bis §4.1.3.2: __Host- needs Secure, Path=/ and no Domain; __Secure- needs Secure.
  const secureName = path === '/' && attributes.domain === undefined ? `__Host-${base}` : `__Secure-${base}`
  const plain: CookieSerializeOptions = {
    sameSite: 'lax',
    ...attributes,
    path,
    httpOnly: true,
    secure: false
  }
  const sealed: CookieSerializeOptions = { ...plain, secure: true }
  const warned = new Set<string>()
  const warnOnce = (message: string): void => {
    if (warned.has(message)) return
    warned.add(message)
    log.error(message)
  }

  const isSecure = (request: FastifyRequest): boolean =>
    security === 'auto' ? request.protocol === 'https' : security

  const warnWhereLost = (request: FastifyRequest): void => {
    if (request.protocol === 'https') return
    if (security === true) {
      warnOnce(
        "the session cookie is Secure but this request came over http: browsers drop it unless the host is localhost. Behind a TLS proxy set Fastify's trustProxy; in development over plain http set cookie: { secure: 'auto' }"
      )
    } else if (String(request.headers['x-forwarded-proto']).startsWith('https')) {
      warnOnce(
        "x-forwarded-proto says https but request.protocol says http: set Fastify's trustProxy, or the session cookie goes out without Secure and __Host-"
      )
    }
  }

  return {
    read(request) {
      const name = isSecure(request) ? secureName : base
      const { cookies } = request
      if (cookies) return cookies[name]
      // @fastify/cookie registered with another hook has not looked yet.
      const header = request.headers.cookie
      return header === undefined ? undefined : request.server.parseCookie(header)[name]
    },

    write(state, request, reply) {
      const secure = isSecure(request)
      const name = secure ? secureName : base
      const options = { ...(secure ? sealed : plain), ...state.cookieOptions }
      if (state.cookie === 'set' && state.found && state.place) {
        const { ticket } = state.place
        const { value } = ticket.renew ? ticketing.restore(ticket.tag, ticket.id) : ticket
        if (persistent) options.maxAge = Math.max(1, Math.ceil((state.found.meta.absoluteAt - now()) / 1_000))
        warnWhereLost(request)
        reply.setCookie(name, value, options)
        // OWASP Session Management: a response that carries an id must not be stored.
        reply.header('cache-control', 'no-store')
      } else if (state.cookie === 'clear' && state.presented) {
        reply.clearCookie(name, options)
        reply.header('cache-control', 'no-store')
      }
      if (state.loggedOut && settings.clearSiteData) reply.header('clear-site-data', settings.clearSiteData)
    }
  }
}
