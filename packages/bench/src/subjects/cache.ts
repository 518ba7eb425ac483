import { flotillaCache } from '@flotilla/cache'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { LRUCache } from 'lru-cache'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  callsPerSecond,
  serveSubjects,
  syncCallsPerSecond,
  type ServedSubject,
  type Work
} from '../harness/subject.js'
import {
  asyncCacheDedupe,
  bentocache,
  cacheManager,
  floor,
  flotilla,
  layeredLoader,
  type MakePeer,
  type Mode,
  type Peer,
  type Value
} from './cache/peers.js'

const KEYS = 1000
const TEXT = 'x'.repeat(200)
const TAGS = ['tag:1', 'tag:2', 'tag:3'] as const
const LANES = 16
const names = Array.from({ length: KEYS }, (_, index) => `user:${index}`)
const keyOf = (index: number): string => names[index % KEYS]!
const valueOf = (key: string): Value => ({ key, text: TEXT })

function right(value: Value | undefined | null, key: string): void {
  if (value?.key !== key) throw new Error(`${key} gave ${JSON.stringify(value)}`)
}

/** All that is measured of one cache product. */
function subject(
  make: MakePeer,
  sync = false
): (context: { env: Record<string, string | undefined> }) => ServedSubject {
  return ({ env }) => {
    const url = env['REDIS_URL']!
    const made = new Map<Mode, Promise<Peer>>()
    const peer = (mode: Mode): Promise<Peer> => {
      const known = made.get(mode) ?? make(mode, url)
      made.set(mode, known)
      return known
    }
    const races = raceWork(peer, url)
    const work: Record<string, Work> = {
      'memory-hit': async ({ ms }) => hits(await peer('memory'), ms, sync),
      'memory-hit-3-tags': async ({ ms }) => hits(await peer('memory'), ms, sync, TAGS),
      peek: async ({ ms }) => {
        const { getOrSet, peek } = await peer('memory')
        for (const key of names) right(await getOrSet(key, valueOf), key)
        return syncCallsPerSecond(ms, (index) => right(peek!(keyOf(index)), keyOf(index)))
      },
      'redis-hit': async ({ ms }) => {
        const { getOrSet } = await peer('remote')
        await Promise.all(names.map((key) => getOrSet(key, valueOf)))
        // Lanes that asked for the same key at once would share one reply where a product joins them.
        const again = async (index: number): Promise<void> => {
          const key = keyOf(index)
          right(await getOrSet(key, valueOf), key)
        }
        return callsPerSecond(ms, again, { concurrency: LANES })
      },
      miss: async ({ ms }) => {
        const { getOrSet } = await peer('memory')
        const run = `${process.pid}:${Date.now()}`
        const once = async (index: number): Promise<void> => {
          const key = `cold:${run}:${index}`
          right(await getOrSet(key, valueOf), key)
        }
        return callsPerSecond(ms, once, { concurrency: LANES })
      },
      'memory-per-entry': async ({ quick }) => bytesPerEntry(make, url, quick ? 2000 : 50_000),
      /** The factory calls of 1,000 callers in this process; all processes begin together. */
      stampede: async ({ args }) => {
        const { getOrSet } = await peer('memory')
        let calls = 0
        const factory = async (key: string): Promise<Value> => {
          calls++
          await sleep(100)
          return valueOf(key)
        }
        await sleep(Math.max(0, Number(args['at']) - Date.now()))
        const key = String(args['key'])
        const all = await Promise.all(Array.from({ length: 1000 }, () => getOrSet(key, factory)))
        for (const value of all) right(value, key)
        return calls
      },
      ...races
    }
    return {
      work,
      close: async () => void (await Promise.all([...made.values()].map(async (one) => (await one).close())))
    }
  }
}

async function hits(
  { getOrSet, peek }: Peer,
  ms: number,
  sync: boolean,
  tags?: readonly string[]
): Promise<number> {
  const named = tags ? names.map((name) => `tagged:${name}`) : names
  for (const key of named) right(await getOrSet(key, valueOf, tags), key)
  if (sync) return syncCallsPerSecond(ms, (index) => right(peek!(named[index % KEYS]!), named[index % KEYS]!))
  const again = async (index: number): Promise<void> => {
    const key = named[index % KEYS]!
    right(await getOrSet(key, valueOf, tags), key)
  }
  return callsPerSecond(ms, again)
}

/** What an entry of 200 characters costs on the heap, its value and key included. */
async function bytesPerEntry(make: MakePeer, url: string, count: number): Promise<number> {
  const fresh = await make('memory', url)
  const fill = async (from: number, to: number): Promise<void> => {
    for (let at = from; at < to; at += 100) {
      await Promise.all(
        Array.from({ length: 100 }, (_, i) =>
          fresh.getOrSet(`entry:${process.pid}:${at + i}`, (key) => ({
            key,
            text: `${key}${'x'.repeat(200 - key.length)}`.split('').join('')
          }))
        )
      )
    }
  }
  await fill(0, 1000)
  const before = await heap()
  await fill(1000, 1000 + count)
  const used = (await heap()) - before
  await fresh.close()
  return used / count
}

async function heap(): Promise<number> {
  for (let round = 0; round < 3; round++) {
    globalThis.gc?.()
    await sleep(20)
  }
  return process.memoryUsage().heapUsed
}

/** The two races of a fill with an invalidation, over several processes: the truth is a hash in Redis. */
function raceWork(peer: (mode: Mode) => Promise<Peer>, url: string): Record<string, Work> {
  let redis: Redis | undefined
  const truth = (): Redis => (redis ??= new Redis(url))
  const keysOf = (args: Readonly<Record<string, unknown>>): string[] =>
    Array.from({ length: Number(args['count']) }, (_, i) => `${String(args['run'])}:${i}`)
  const read = async (run: unknown, key: string): Promise<Value> => ({
    key,
    text: (await truth().hget(String(run), key)) ?? 'old'
  })
  return {
    'race-fill': async ({ args }) => {
      const { getOrSet } = await peer('memory')
      await Promise.all(
        keysOf(args).map(async (key) => {
          await sleep(Math.random() * 6)
          const dawdle = async (): Promise<Value> => {
            const value = await read(args['run'], key)
            await sleep(Math.random() * 6)
            return value
          }
          await getOrSet(key, dawdle, args['tag'] === true ? [`tag of ${key}`] : undefined)
        })
      )
      return 0
    },
    'race-write': async ({ args }) => {
      const { delete: remove, invalidate } = await peer('memory')
      await Promise.all(
        keysOf(args).map(async (key) => {
          await sleep(Math.random() * 12)
          await truth().hset(String(args['run']), key, 'new')
          await (args['tag'] === true ? invalidate!(`tag of ${key}`) : remove!(key))
        })
      )
      return 0
    },
    /** How many keys still give the old value. */
    'race-check': async ({ args }) => {
      const { getOrSet } = await peer('memory')
      let stale = 0
      for (const key of keysOf(args)) {
        const tags = args['tag'] === true ? [`tag of ${key}`] : undefined
        if ((await getOrSet(key, () => read(args['run'], key), tags)).text !== 'new') stale++
      }
      return stale
    }
  }
}

const BODY = {
  items: Array.from({ length: 10 }, (_, id) => ({ id, title: `post ${id}`, body: 'x'.repeat(60) }))
}

serveSubjects({
  flotilla: subject(flotilla),
  floor: subject(floor, true),
  'layered-loader': subject(layeredLoader),
  bentocache: subject(bentocache),
  'async-cache-dedupe': subject(asyncCacheDedupe),
  'cache-manager': subject(cacheManager),

  /** `lru-cache` without expiry: a hash look-up and a list. */
  'lru-cache'() {
    const lru = new LRUCache<string, Value>({ max: 200_000 })
    for (const key of names) lru.set(key, valueOf(key))
    return {
      work: {
        peek: async ({ ms }) => syncCallsPerSecond(ms, (index) => right(lru.get(keyOf(index)), keyOf(index)))
      }
    }
  },

  async 'flotilla-http'() {
    const app = Fastify()
    await app.register(flotillaCache, { redis: false })
    app.get('/posts', { config: { cache: { ttl: '10m' } } }, () => BODY)
    return { app }
  },

  /** A route that answers the same JSON from memory, ready-made. */
  async 'floor-http'() {
    const app = Fastify()
    const text = JSON.stringify(BODY)
    app.get('/posts', (_request, reply) => reply.type('application/json; charset=utf-8').send(text))
    return { app }
  },

  /** A route that returns the object. */
  async 'bare-http'() {
    const app = Fastify()
    app.get('/posts', async () => BODY)
    return { app }
  }
})
