import type { FastifyRequest } from 'fastify'

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
