import type { FastifyRequest } from 'fastify'

/**
 * Whether a browser page may open a connection. Browsers send cookies along with a WebSocket handshake from
 * any site and apply no same-origin policy to it, so the server has to look (RFC 6455 §10.2).
 */
export function isOriginAllowed(
  request: FastifyRequest,
  origins: 'any' | readonly string[] | undefined
): boolean {
  const { origin } = request.headers
  if (origin === undefined || origins === 'any') return true
  if (origins) return origins.includes(origin)
  // `request.host` honours X-Forwarded-Host only where the app's trustProxy says so.
  return URL.canParse(origin) && new URL(origin).host === request.host.toLowerCase()
}
