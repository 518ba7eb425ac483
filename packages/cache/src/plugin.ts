import fp from 'fastify-plugin'
import type { FastifyInstance } from 'fastify'
import { Cache } from './cache.js'
import { RegisteredTwiceError } from './errors.js'
import { responseCache } from './http/plugin.js'
import { readOptions, type CacheOptions } from './options.js'
import { buildCore } from './wiring.js'

declare module 'fastify' {
  interface FastifyInstance {
    cache: Cache
  }
}

/**
 * Decorates `fastify.cache` and serves routes with `config.cache` from it.
 *
 * @throws FLOTILLA_CACHE_ERR_OPTIONS, FLOTILLA_CACHE_ERR_REGISTERED_TWICE, FLOTILLA_REDIS_ERR_NO_CLIENT
 */
async function cachePlugin(fastify: FastifyInstance, input: CacheOptions): Promise<void> {
  const settings = readOptions(input)
  if (fastify.hasDecorator('cache')) throw new RegisteredTwiceError()
  const core = buildCore(fastify, settings)
  const cache = new Cache(core, '', settings.entry, settings.codec)
  fastify.decorate('cache', cache)
  if (settings.http) responseCache(fastify, cache, settings.http)
}

const flotillaCache = fp(cachePlugin, { name: '@flotilla/cache', fastify: '5.x' })

export default flotillaCache
export { flotillaCache }
