/*
 * Prints how many times `maxSize` the heap grew, for one shape of values, when memory holds as many of them as it keeps. In a
 * process of its own, with --expose-gc.
 */
import { flotillaCache } from '../../src/index.js'
import Fastify from 'fastify'

const text = (length: number, i: number): string => `${i} `.padEnd(length, 'abcdefgh')
const many = <T>(count: number, make: (n: number) => T): T[] =>
  Array.from({ length: count }, (_, n) => make(n))
const record = (count: number, make: (n: number) => [string, unknown]): object =>
  Object.fromEntries(many(count, make))

/** By name; each makes the value number `i`. */
const shapes: Record<string, (i: number) => unknown> = {
  'small integers': (i) => i,
  fractions: (i) => i + 0.5,
  booleans: (i) => i % 2 === 0,
  'short text': (i) => text(10, i),
  text: (i) => text(200, i),
  'text beyond Latin-1': (i) => `✓${text(200, i)}`,
  'long text': (i) => text(20_000, i),
  'small objects': (i) => ({ id: i, ok: true }),
  'a list of small objects': (i) => many(100, (n) => ({ id: n, i, ok: true, none: null })),
  rows: (i) =>
    many(20, (n) => ({
      id: i * 100 + n,
      name: text(12, n),
      price: n + 0.25,
      at: 1.7e12 + i,
      tags: ['a', 'b']
    })),
  'empty objects and lists': () => many(200, (n) => (n % 2 ? {} : [])),
  'nested lists': (i) => many(50, (n) => [n, [i, [n]]]),
  'lists of integers': (i) => many(500, (n) => n + i),
  'lists of fractions': (i) => many(500, (n) => n + i / 3),
  'fractions in objects': (i) => many(50, (n) => ({ x: n / 3, y: i / 7, z: 1e12 + n })),
  'own keys in each': (i) => ({ [`key ${i}`]: 1, [`other ${i}`]: 2 }),
  'a dictionary': (i) => record(1000, (n) => [`key ${n}`, i]),
  'a dictionary of own keys': (i) => record(300, (n) => [`${i} ${n}`, n]),
  'a wide object': (i) => record(100, (n) => [`column ${n}`, i]),
  'skewed: small parts first': (i) => [...many(1100, () => 1), ...many(20, (n) => text(1000, n + i))],
  'skewed: large parts first': (i) => [...many(20, (n) => text(1000, n + i)), ...many(1100, () => 'x')],
  'text in lists': (i) => many(100, (n) => text(20, n * i))
}
const rich: Record<string, (i: number) => unknown> = {
  bytes: (i) => Buffer.alloc(100, i),
  'many bytes': (i) => Buffer.alloc(50_000, i),
  dates: (i) => many(50, (n) => new Date(n * i)),
  'a Map': (i) => new Map(many(100, (n) => [`${n}`, i])),
  'a Set': (i) => new Set(many(100, (n) => n * i)),
  'small Maps': (i) => new Map([[i, i]]),
  BigInt: (i) => many(50, (n) => 12_345_678_901_234n + BigInt(n * i))
}

const maxSize = 2 * 1024 ** 2
const gc = globalThis.gc!

async function used(): Promise<number> {
  // Backing stores are given back some turns after their views are gone.
  for (let i = 0; i < 2; i++) {
    gc()
    await new Promise((resolve) => setImmediate(resolve))
  }
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

async function measure(
  make: (i: number) => unknown,
  codec: 'json' | 'msgpack',
  tags = false
): Promise<number> {
  const app = Fastify()
  await app.register(flotillaCache, { redis: false, codec, memory: { maxSize } })
  await app.ready()
  const { cache } = app
  await cache.set('first', make(0))
  const before = await used()
  let last = -1
  // Until memory has been full for a while.
  for (let i = 0; i < 100_000; i++) {
    const key = `key ${i}`
    await cache.set(key, make(i), tags ? { tags: [`tag ${i}`, `group ${i % 10}`] } : {})
    await cache.getOrSet(key, () => 0)
    if (last < 0 && cache.peek('key 0') === undefined) last = Math.ceil(i * 1.2)
    if (i === last) break
  }
  const ratio = ((await used()) - before) / maxSize
  await app.close()
  return ratio
}

const ratios: Record<string, number> = {}
for (const [name, make] of Object.entries(shapes)) ratios[name] = await measure(make, 'json')
for (const [name, make] of Object.entries(rich)) ratios[`${name} (msgpack)`] = await measure(make, 'msgpack')
ratios['tags of their own'] = await measure((i) => i, 'json', true)
process.stdout.write(JSON.stringify(ratios))
