import { createHash } from 'node:crypto'
import type { RedisClient } from '@flotilla/redis'
import type { FastifyRequest } from 'fastify'
import { keepLatest } from '../lua/keep-latest.js'
import type { TokenCodec } from '../token.js'
import type { Carrier } from './carrier.js'

export interface RedisCarrierSettings {
  /** Who wrote; `undefined` for no user to remember. */
  user: (request: FastifyRequest) => string | undefined
  keyPrefix: string
  /** Milliseconds. */
  ttl: number
}

/** One position per user in Redis, merged by maximum: it follows a user across browsers and devices. */
export function redisCarrier(
  client: RedisClient,
  codec: TokenCodec,
  settings: RedisCarrierSettings
): Carrier {
  const keyOf = (user: string): string =>
    settings.keyPrefix + createHash('sha256').update(user).digest('base64url').slice(0, 24)
  return {
    isEmpty: (request) => settings.user(request) === undefined,
    async load(request) {
      const user = settings.user(request)
      if (user === undefined) return []
      const token = await client.hget(keyOf(user), 't')
      return token === null ? [] : [token]
    },
    async store(request, _reply, token) {
      const user = settings.user(request)
      const position = codec.decode(token)
      if (user === undefined || !position) return
      const point =
        position.timeline.toString(16).padStart(8, '0') + position.lsn.toString(16).padStart(16, '0')
      await keepLatest.run(
        client,
        [keyOf(user)],
        [position.systemId.toString(16), point, token, settings.ttl]
      )
    }
  }
}
