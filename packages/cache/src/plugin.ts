import { requirePermissions } from '@flotilla/redis'
import fp from 'fastify-plugin'
import type { FastifyInstance } from 'fastify'
import { Cache } from './cache.js'
import { RegisteredTwiceError } from './errors.js'
import type { FactoryContext } from './factory.js'
import { responseCache } from './http/plugin.js'
import { readOptions, type CacheOptions } from './options.js'
import { permissionsFor } from './permissions.js'
import { buildCore, clientOf } from './wiring.js'

declare module 'fastify' {
  interface FastifyInstance {
    cache: Cache
  }
  interface FastifyRequest {
    /**
     * In the handler of a route with `config.cache`, while what it answers is to be stored: what a factory of
     * `getOrSet` is given. `undefined` where the response is not going to be stored. `cacheFill?.after` is the token
     * of the write that dropped the last response: read no older state than that. `tags` adds tags, `skip` keeps the
     * response out of the cache, `ttl` is its freshness where its headers name none.
     */
    readonly cacheFill: FactoryContext | undefined
  }
}

/**
 * Decorates `fastify.cache` and serves routes with `config.cache` from it.
 *
 * @throws FLOTILLA_CACHE_ERR_OPTIONS, FLOTILLA_CACHE_ERR_REGISTERED_TWICE, FLOTILLA_REDIS_ERR_NO_CLIENT, FLOTILLA_REDIS_ERR_PERMISSION
 */
async function cachePlugin(fastify: FastifyInstance, input: CacheOptions): Promise<void> {
  const settings = readOptions(input)
  if (fastify.hasDecorator('cache')) throw new RegisteredTwiceError()
  const client = clientOf(fastify, settings)
  if (client) await requirePermissions(client, permissionsFor(settings.keyPrefix))
  const core = buildCore(fastify, settings)
  const cache = new Cache(core, '', settings.entry, settings.codec)
  fastify.decorate('cache', cache)
  if (settings.http) responseCache(fastify, cache, settings.http, core.parts.log)
}

/**
 * Decorates the instance with `cache`, a {@link Cache} in memory and, where a client is registered, in Redis;
 * routes with `config.cache` have their responses cached.
 *
 * @throws FLOTILLA_CACHE_ERR_OPTIONS, FLOTILLA_CACHE_ERR_REGISTERED_TWICE, FLOTILLA_REDIS_ERR_NO_CLIENT from `register`
 */
const flotillaCache = fp(cachePlugin, { name: '@flotilla/cache', fastify: '5.x' })

export default flotillaCache
export { flotillaCache }
