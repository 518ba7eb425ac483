/**
 * One process of a fleet: the cache on REDIS_URL, driven over IPC. The "database" is a Redis hash, so that all
 * processes read and write the same truth.
 */
import Fastify from 'fastify'
import { flotillaRedis } from '@flotilla/redis'
import { flotillaCache, type CacheOptions } from '../../src/index.js'

const url = process.env['REDIS_URL']!
const options = JSON.parse(process.env['CACHE_OPTIONS'] ?? '{}') as CacheOptions
const app = Fastify()
await app.register(flotillaRedis, { url, commandTimeout: '20s' })
await app.register(flotillaCache, { redisTimeout: { soft: '10s', hard: '20s' }, ...options })
await app.ready()

let calls = 0
let computing = ''
const passed = new Set<unknown>()
app.bus.subscribe('test.barrier', (name) => passed.add(name))
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
const truth = async (key: string): Promise<string> => (await app.redis.hget('truth', key)) ?? 'none'

interface Command {
  do: string
  key: string
  value?: string
  tags?: string[]
  ms?: number
  times?: number
  options?: Record<string, unknown>
  keys?: string[]
}

const commands: Record<string, (command: Command) => unknown> = {
  /** `times` concurrent getOrSet whose factory reads the truth, then takes `ms`. */
  async load({ key, ms = 0, times = 1, options: given, tags }) {
    const all = await Promise.all(
      Array.from({ length: times }, () =>
        app.cache.getOrSet(
          key,
          async () => {
            calls++
            computing = key
            const value = await truth(key)
            await sleep(ms)
            computing = ''
            return value
          },
          { ...given, ...(tags ? { tags } : {}) }
        )
      )
    )
    return { values: [...new Set(all)], calls }
  },
  get: ({ key }) => app.cache.get(key),
  peek: ({ key }) => app.cache.peek(key),
  set: ({ key, value, options: given }) => app.cache.set(key, value, given),
  delete: ({ key }) => app.cache.delete(key),
  deleteMany: ({ keys = [] }) => app.cache.deleteMany(keys),
  invalidate: ({ tags = [] }) => app.cache.invalidateTags(tags),
  clear: () => app.cache.clear(),
  /** Writes the truth, then invalidates, as an app does. */
  async write({ key, value = '', tags }) {
    await app.redis.hset('truth', key, value)
    if (tags) await app.cache.invalidateTags(tags)
    else await app.cache.delete(key)
  },
  /** For each key, at a random moment: getOrSet whose factory reads the truth and dawdles. */
  async fills({ keys = [], tags }) {
    await Promise.all(
      keys.map(async (key) => {
        await sleep(Math.random() * 6)
        await app.cache.getOrSet(
          key,
          async (ctx) => {
            if (tags?.[0] === 'dynamic') ctx.tags(`tag of ${key}`)
            const value = await truth(key)
            await sleep(Math.random() * 6)
            return value
          },
          tags?.[0] === 'static' ? { tags: [`tag of ${key}`] } : {}
        )
      })
    )
  },
  /** For each key, at a random moment: the truth changes and the key or its tag is invalidated. */
  async writes({ keys = [], tags, value = '' }) {
    await Promise.all(
      keys.map(async (key) => {
        await sleep(Math.random() * 12)
        await app.redis.hset('truth', key, value)
        if (tags) await app.cache.invalidateTags([`tag of ${key}`])
        else await app.cache.delete(key)
      })
    )
  },
  /** Waits until every instance has what this one published before. */
  async barrier({ key }) {
    await app.bus.publish('test.barrier', key)
  },
  passed: ({ key }) => passed.has(key),
  /** Keys under which memory or Redis holds something else than `value`. */
  async stale({ keys = [], value }) {
    const held = await app.cache.getMany(keys)
    return keys.filter((_, i) => held[i] !== undefined && held[i] !== value)
  },
  calls: () => calls,
  computing: () => computing,
  explain: ({ key }) => app.cache.explain(key)
}

process.on('message', ({ id, message }: { id: number; message: Command }) => {
  Promise.resolve()
    .then(() => commands[message.do]!(message))
    .then(
      (reply) => process.send!({ id, reply }),
      (error: unknown) => process.send!({ id, error: String(error) })
    )
})
process.on('SIGTERM', () => void app.close().then(() => process.exit(0)))
process.send!({ ready: true })
