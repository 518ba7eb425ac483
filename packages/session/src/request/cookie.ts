import type { CookieSerializeOptions } from '@fastify/cookie'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { SessionState } from '../lifecycle/session-state.js'
import type { CookieSettings } from '../options.js'
import type { RedisClock } from '../store/clock.js'
import type { SessionTokens } from '../store/token.js'

/** What the session's cookie is like, under the names that @fastify/session has. It cannot be changed here: see `session.options`. */
export interface SessionCookieInfo {
  /** Below which URLs browsers send it. */
  readonly path: string
  /** `null`: only to the host that set it. */
  readonly domain: string | null
  /** Scripts in the browser cannot read it. */
  readonly httpOnly: true
  /** Only over https. */
  readonly secure: boolean
  /** As in RFC 6265bis. */
  readonly sameSite: 'lax' | 'strict' | 'none' | boolean
  /** One cookie jar for each top-level site (CHIPS). */
  readonly partitioned: boolean
  /** How long the cookie lives from the beginning of the session, in milliseconds; `null` if it ends with the browser. */
  readonly originalMaxAge: number | null
  /** How long it still lives, in milliseconds; `null` if it ends with the browser. */
  readonly maxAge: number | null
  /** When it ends; `null` if it ends with the browser. */
  readonly expires: Date | null
}

export interface SessionCookieParts {
  /** Milliseconds, of sessions that have none of their own. */
  readonly absoluteTimeout: number
  readonly settings: CookieSettings
  readonly clearSiteData: string | undefined
  readonly tokens: SessionTokens
  readonly clock: RedisClock
  readonly log: FastifyRequest['log']
}

/** Reads and writes the browser's cookie. */
export class SessionCookie {
  readonly #parts: SessionCookieParts
  readonly #path: string
  readonly #secureName: string
  readonly #plain: CookieSerializeOptions
  readonly #secure: CookieSerializeOptions
  readonly #warned = new Set<string>()

  constructor(parts: SessionCookieParts) {
    this.#parts = parts
    const { name, secure: _secure, persistent: _persistent, ...attributes } = parts.settings
    const path = attributes.path ?? '/'
    this.#path = path.endsWith('/') ? path : `${path}/`
    // RFC 6265bis §4.1.3.2: __Host- needs Secure, Path=/ and no Domain; __Secure- needs Secure.
    const host = path === '/' && attributes.domain === undefined
    this.#secureName = host ? `__Host-${name}` : `__Secure-${name}`
    this.#secure = { sameSite: 'lax', ...attributes, path, httpOnly: true, secure: true }
    this.#plain = { ...this.#secure, secure: false }
  }

  /** Whether browsers send the cookie to this URL (RFC 6265 §5.1.4). Elsewhere there is no session. */
  covers(url: string): boolean {
    if (this.#path === '/') return true
    const end = url.search(/[?#]/)
    const pathname = end < 0 ? url : url.slice(0, end)
    return pathname.startsWith(this.#path) || `${pathname}/` === this.#path
  }

  /** The value as the browser sent it, whatever it is. */
  read(request: FastifyRequest): string | undefined {
    const name = this.#isSecure(request.protocol) ? this.#secureName : this.#parts.settings.name
    const { cookies } = request
    if (cookies) return cookies[name]
    // @fastify/cookie registered with another hook has not looked yet.
    const header = request.headers.cookie
    return header === undefined ? undefined : request.server.parseCookie(header)[name]
  }

  /** What a response would set now. */
  describe(state: SessionState): SessionCookieInfo {
    const { path, domain, sameSite, partitioned } = this.#attributesFor(state, this.#isSecure(state.protocol))
    const { absoluteTimeout, clock } = this.#parts
    const { createdAt, absoluteAt } = state.record?.meta ?? { createdAt: 0, absoluteAt: absoluteTimeout }
    const now = clock.now()
    const left = this.#lifetimeOf(state, state.record ? absoluteAt - now : absoluteTimeout)
    return Object.freeze({
      path: path!,
      domain: domain ?? null,
      httpOnly: true,
      secure: this.#isSecure(state.protocol),
      sameSite: sameSite!,
      partitioned: partitioned === true,
      originalMaxAge: this.#lifetimeOf(state, absoluteAt - createdAt) ?? null,
      maxAge: left ?? null,
      expires: left === undefined ? null : new Date(now + left)
    })
  }

  /** Does to the response what the state asks for. */
  write(state: SessionState, request: FastifyRequest, reply: FastifyReply): void {
    const { settings, clearSiteData, tokens, clock } = this.#parts
    const secure = this.#isSecure(request.protocol)
    const name = secure ? this.#secureName : settings.name
    const options = this.#attributesFor(state, secure)
    if (state.cookie !== 'keep') this.#warnIfWeakened(state, secure)
    if (state.cookie === 'set' && state.token && state.record) {
      const { value } = state.token.outdated ? tokens.resign(state.token) : state.token
      const left = this.#lifetimeOf(state, state.record.meta.absoluteAt - clock.now())
      if (left !== undefined) options.maxAge = Math.max(1, Math.ceil(left / 1_000))
      this.#warnIfLost(request)
      reply.setCookie(name, value, options)
      // OWASP Session Management: a response that carries an id must not be stored.
      reply.header('cache-control', 'no-store')
    } else if (state.cookie === 'clear' && state.presented) {
      reply.clearCookie(name, options)
      reply.header('cache-control', 'no-store')
    }
    if (state.loggedOut && clearSiteData) reply.header('clear-site-data', clearSiteData)
  }

  /** Outside of a request as over https. */
  #isSecure(protocol = 'https'): boolean {
    const { secure } = this.#parts.settings
    return secure === 'auto' ? protocol === 'https' : secure
  }

  #attributesFor(state: SessionState, secure: boolean): CookieSerializeOptions {
    const options = { ...(secure ? this.#secure : this.#plain), ...state.cookieOptions }
    if (secure) return options
    // Browsers accept both only with Secure.
    delete options.partitioned
    if (options.sameSite === 'none') options.sameSite = 'lax'
    return options
  }

  #warnIfWeakened({ cookieOptions }: SessionState, secure: boolean): void {
    const { sameSite, partitioned } = { ...this.#plain, ...cookieOptions }
    if (secure || (sameSite !== 'none' && !partitioned)) return
    this.#warnOnce(
      'the session cookie goes out over http without SameSite=None and Partitioned, which browsers accept only with Secure'
    )
  }

  /** @returns milliseconds, at most `longest`; `undefined` for a cookie that ends with the browser */
  #lifetimeOf({ record, cookieMaxAge, cookiePersistent }: SessionState, longest: number): number | undefined {
    const persistent = cookiePersistent ?? record?.meta.persistent ?? this.#parts.settings.persistent
    if (!persistent && cookieMaxAge === undefined) return undefined
    return Math.min(longest, cookieMaxAge ?? Infinity)
  }

  #warnIfLost(request: FastifyRequest): void {
    if (request.protocol === 'https') return
    if (this.#parts.settings.secure === true) {
      this.#warnOnce(
        "the session cookie is Secure but this request came over http: browsers drop it unless the host is localhost. Behind a TLS proxy set Fastify's trustProxy; in development over plain http set cookie: { secure: 'auto' }"
      )
    } else if (String(request.headers['x-forwarded-proto']).startsWith('https')) {
      this.#warnOnce(
        "x-forwarded-proto says https but request.protocol says http: set Fastify's trustProxy, or the session cookie goes out without Secure and __Host-"
      )
    }
  }

  #warnOnce(message: string): void {
    if (this.#warned.has(message)) return
    this.#warned.add(message)
    this.#parts.log.error(message)
  }
}
