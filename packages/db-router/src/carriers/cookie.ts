import type { ConsistencyToken } from '@flotilla/core'
import { parseCookie, stringifySetCookie } from 'cookie'
import type { FastifyRequest } from 'fastify'
import type { Carrier } from './carrier.js'

/** The cookie that carries an author's token; HttpOnly always. */
export interface CookieSettings {
  /** What its name begins with. Default `flotilla-<name>`. */
  name: string
  /** Default `/`. */
  path: string
  /** Default none: this host alone. */
  domain: string | undefined
  /** Default `lax`. */
  sameSite: 'lax' | 'strict' | 'none'
  /** `'auto'` (default): on https requests, as `request.protocol` says. */
  secure: boolean | 'auto'
  /** Milliseconds. */
  maxAge: number
}

/**
 * A signed cookie. Each instance sets one of its own (`name-<instance>`): answers to parallel requests, through
 * two instances, would otherwise overwrite the newer token with the older, and a browser can not take the maximum. All
 * that come are read, however large the fleet: browsers send the newest last. Node's limit for headers bounds them.
 */
export function cookieCarrier(settings: CookieSettings, instance: string): Carrier {
  const prefix = `${settings.name}-`
  const mentions = (request: FastifyRequest): boolean => request.headers.cookie?.includes(prefix) === true
  const load = (request: FastifyRequest): ConsistencyToken[] => {
    if (!mentions(request)) return []
    const tokens: ConsistencyToken[] = []
    for (const [name, value] of Object.entries(parseCookie(request.headers.cookie!))) {
      if (name.startsWith(prefix) && value !== undefined) tokens.push(value)
    }
    return tokens
  }
  return {
    isEmpty: (request) => !mentions(request),
    load,
    peek: load,
    store(request, reply, token) {
      const cookie = stringifySetCookie({
        name: prefix + instance,
        value: token,
        path: settings.path,
        ...(settings.domain !== undefined && { domain: settings.domain }),
        sameSite: settings.sameSite,
        httpOnly: true,
        secure: settings.secure === 'auto' ? request.protocol === 'https' : settings.secure,
        maxAge: Math.ceil(settings.maxAge / 1000)
      })
      reply.header('set-cookie', cookie)
    }
  }
}
