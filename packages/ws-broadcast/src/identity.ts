import type { FastifyRequest } from 'fastify'
import { FLOTILLA_WS_ERR_OPTION } from './errors.js'

/** Who a connection belongs to. */
export interface Identity {
  /** The user, as presence shows it and `disconnect` finds it. */
  readonly userId?: string
  /** The public reference of the session: `session.revoked` closes the connections that carry it. */
  readonly ref?: string
}

/** Shared by all connections without a login, which are most where there are most. */
const NOBODY: Identity = Object.freeze({})

/** The identity of a request from `request.session`, as any session plugin with `userId` and `ref` leaves it. */
export function sessionIdentity(request: FastifyRequest): Identity {
  const { session } = request as unknown as { session?: { userId?: unknown; ref?: unknown } | null }
  if (typeof session?.userId !== 'string' && typeof session?.ref !== 'string') return NOBODY
  return {
    ...(typeof session?.userId === 'string' && { userId: session.userId }),
    ...(typeof session?.ref === 'string' && { ref: session.ref })
  }
}

/**
 * What the app says who somebody is. In JavaScript that may be anything: what is no object lets nobody in, and an id
 * that is no string would be found by no `disconnect` and no revocation.
 *
 * @throws FLOTILLA_WS_ERR_OPTION
 */
export function readIdentity(answer: unknown): Identity | null {
  if (typeof answer !== 'object' || answer === null) return null
  for (const name of ['userId', 'ref'] as const) {
    const value = (answer as Record<string, unknown>)[name]
    if (value === undefined || typeof value === 'string') continue
    throw new FLOTILLA_WS_ERR_OPTION(
      `@flotilla/ws-broadcast: the ${name} of an identity must be a string, got ${value === null ? 'null' : typeof value}`
    )
  }
  return answer
}
