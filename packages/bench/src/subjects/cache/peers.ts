import { flotillaCache } from '@flotilla/cache'
import { flotillaRedis } from '@flotilla/redis'
import KeyvRedis, { Keyv } from '@keyv/redis'
import { createCache as createDedupe } from 'async-cache-dedupe'
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { redisBusDriver, redisDriver } from 'bentocache/drivers/redis'
import { createCache as createManager } from 'cache-manager'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { Loader, RedisCache } from 'layered-loader'
import { LRUCache } from 'lru-cache'

export interface Value {
  readonly key: string
  readonly text: string
}

export type Factory = (key: string) => Value | Promise<Value>

/** One cache product as the cases use it. `tags` are three where a case has them. */
export interface Peer {
  /** The factory is given again with each call, or once at the start, as the product would have it. */
  readonly getOrSet: (key: string, factory: Factory, tags?: readonly string[]) => Promise<Value>
  readonly peek?: (key: string) => Value | undefined | null
  readonly delete?: (key: string) => Promise<unknown>
  readonly invalidate?: (tag: string) => Promise<unknown>
  close(): Promise<unknown>
}

/** `memory`: memory in front of Redis, as its README recommends. `remote`: Redis alone. */
export type Mode = 'memory' | 'remote'

export type MakePeer = (mode: Mode, url: string) => Promise<Peer>

const TTL_MS = 300_000
const MAX_ITEMS = 200_000

export const flotilla: MakePeer = async (mode, url) => {
  const app = Fastify()
  await app.register(flotillaRedis, { url })
  await app.register(flotillaCache, {
    ttl: TTL_MS,
    memory: mode === 'memory' ? { maxSize: '1gb' } : false
  })
  await app.ready()
  const cache = app.cache.namespace<Value>('bench')
  return {
    getOrSet: (key, factory, tags) => cache.getOrSet(key, () => factory(key), tags && { tags }),
    peek: (key) => cache.peek(key),
    delete: (key) => cache.delete(key),
    invalidate: (tag) => cache.invalidateTags([tag]),
    close: () => app.close()
  }
}

/** The raw minimum: `lru-cache` in memory; GET and SET of JSON for Redis. */
export const floor: MakePeer = async (mode, url) => {
  const lru = new LRUCache<string, Value>({ max: MAX_ITEMS, ttl: TTL_MS })
  const redis = mode === 'remote' ? new Redis(url, { enableAutoPipelining: true }) : undefined
  return {
    async getOrSet(key, factory) {
      const held = redis ? await redis.get(`floor:${key}`) : lru.get(key)
      if (held) return typeof held === 'string' ? (JSON.parse(held) as Value) : held
      const value = await factory(key)
      if (redis) await redis.set(`floor:${key}`, JSON.stringify(value), 'PX', TTL_MS)
      else lru.set(key, value)
      return value
    },
    peek: (key) => lru.get(key),
    close: async () => redis?.quit()
  }
}

export const layeredLoader: MakePeer = async (mode, url) => {
  const redis = new Redis(url, { enableAutoPipelining: true })
  let source: Factory = () => {
    throw new Error('no factory yet')
  }
  const loader = new Loader<Value>({
    ...(mode === 'memory' && {
      inMemoryCache: { cacheType: 'lru-object', ttlInMsecs: TTL_MS, maxItems: MAX_ITEMS }
    }),
    asyncCache: new RedisCache<Value>(redis, { prefix: 'layered-loader:', json: true, ttlInMsecs: TTL_MS }),
    dataSources: [{ name: 'source', get: async (key: string) => source(key), getMany: async () => [] }]
  })
  return {
    getOrSet(key, factory) {
      source = factory
      return loader.get(key) as Promise<Value>
    },
    peek: (key) => loader.getInMemoryOnly(key),
    delete: (key) => loader.invalidateCacheFor(key),
    close: () => redis.quit()
  }
}

export const bentocache: MakePeer = async (mode, url) => {
  const { hostname: host, port } = new URL(url)
  const connection = { host, port: Number(port) }
  const store = bentostore().useL2Layer(redisDriver({ connection }))
  if (mode === 'memory') {
    store.useL1Layer(memoryDriver({ maxItems: MAX_ITEMS })).useBus(redisBusDriver({ connection }))
  }
  const bento = new BentoCache({ default: 'all', prefix: 'bentocache', stores: { all: store } })
  return {
    getOrSet: (key, factory, tags) =>
      bento.getOrSet({ key, factory: () => factory(key), ttl: TTL_MS, ...(tags && { tags: [...tags] }) }),
    delete: (key) => bento.delete({ key }),
    invalidate: (tag) => bento.deleteByTag({ tags: [tag] }),
    close: () => bento.disconnectAll()
  }
}

/** It has one storage: memory or Redis. */
export const asyncCacheDedupe: MakePeer = async (mode, url) => {
  const redis = new Redis(url, { enableAutoPipelining: true })
  let source: Factory = () => {
    throw new Error('no factory yet')
  }
  const tagsOf = new Map<string, readonly string[]>()
  const cache = createDedupe({
    ttl: TTL_MS / 1000,
    storage:
      mode === 'memory'
        ? { type: 'memory', options: { size: MAX_ITEMS } }
        : { type: 'redis', options: { client: redis } }
  }).define(
    'value',
    { references: (_args: unknown, key: string) => [...(tagsOf.get(key) ?? [])] } as never,
    (async (key: string) => source(key)) as never
  ) as unknown as {
    value(key: string): Promise<Value>
    clear(name: string, key: string): Promise<void>
    invalidateAll(references: string[]): Promise<void>
  }
  return {
    getOrSet(key, factory, tags) {
      source = factory
      if (tags) tagsOf.set(key, tags)
      return cache.value(key)
    },
    delete: (key) => cache.clear('value', key),
    invalidate: (tag) => cache.invalidateAll([tag]),
    close: () => redis.quit()
  }
}

export const cacheManager: MakePeer = async (mode, url) => {
  const stores = [new Keyv({ store: new KeyvRedis(url), namespace: 'cache-manager', useKeyPrefix: false })]
  const cache = createManager({ ttl: TTL_MS, stores: mode === 'memory' ? [new Keyv(), ...stores] : stores })
  return {
    getOrSet: (key, factory) => cache.wrap(key, async () => factory(key)),
    delete: (key) => cache.del(key),
    close: () => cache.disconnect()
  }
}
