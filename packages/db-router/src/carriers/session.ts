import type { ConsistencyToken } from '@flotilla/core'
import type { FastifyRequest } from 'fastify'
import type { Carrier } from './carrier.js'

/** What is used of a session plugin's `request.session`; `update` is atomic where it exists. */
interface SessionLike {
  get?(key: string): unknown
  set?(key: string, value: unknown): unknown
  update?(key: string, change: (value: unknown) => unknown): Promise<unknown>
}

/**
 * In the user's session.
 * @param key the entry's name
 * @param merge the later of two tokens
 */
export function sessionCarrier(
  key: string,
  merge: (a: ConsistencyToken, b: ConsistencyToken) => ConsistencyToken
): Carrier {
  const sessionOf = (request: FastifyRequest): SessionLike | undefined =>
    (request as unknown as { session?: SessionLike }).session
  const merged = (old: unknown, token: ConsistencyToken): ConsistencyToken =>
    typeof old === 'string' ? merge(old, token) : token
  const tokenOf = (request: FastifyRequest): unknown => sessionOf(request)?.get?.(key)
  const load = (request: FastifyRequest): ConsistencyToken[] => {
    const token = tokenOf(request)
    return typeof token === 'string' ? [token] : []
  }
  return {
    isEmpty: (request) => typeof tokenOf(request) !== 'string',
    load,
    peek: load,
    async store(request, _reply, token) {
      const session = sessionOf(request)
      if (session?.update) await session.update(key, (old) => merged(old, token))
      else session?.set?.(key, merged(session.get?.(key), token))
    }
  }
}
