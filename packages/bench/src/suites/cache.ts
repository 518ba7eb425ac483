import { http, work } from '../harness/measures.js'
import { defineSuite, type Case, type Measure, type Round } from '../harness/suite.js'

const PEERS = ['layered-loader', 'bentocache', 'async-cache-dedupe', 'cache-manager'] as const
const everyone = ['flotilla', 'floor', ...PEERS]

const rate = (name: string, title: string, subjects: readonly string[]): Case => ({
  name,
  title,
  unit: 'calls/s',
  subjects,
  measure: work(name)
})

let runs = 0

/** 8 processes, 1,000 callers each, one cold key. */
const stampede: Measure = async ({ processes, ms, quick, warmup }) => {
  const args = { key: `stampede:${process.pid}:${++runs}`, at: Date.now() + 300 }
  const calls = await Promise.all(processes.map((one) => one.work('stampede', { ms, quick, warmup, args })))
  return calls.reduce((sum, one) => sum + one, 0)
}

/** Rounds of a fill in two processes against an invalidation in a third; the figure is how many end stale. */
const race =
  (tag: boolean): Measure =>
  async (round: Round) => {
    const [a, b, c] = round.processes as [Round['processes'][0], Round['processes'][0], Round['processes'][0]]
    const batch = 50
    const rounds = round.quick || round.warmup ? batch : 1000
    let stale = 0
    for (let done = 0; done < rounds; done += batch) {
      const args = { run: `race:${process.pid}:${++runs}`, count: batch, tag }
      const request = { ms: round.ms, quick: round.quick, warmup: round.warmup, args }
      await Promise.all([
        a.work('race-fill', request),
        b.work('race-fill', request),
        c.work('race-write', request)
      ])
      // Time for messages on the way; what is stale now stays stale.
      await new Promise((resolve) => setTimeout(resolve, 50))
      const found = await Promise.all([c, a, b].map((one) => one.work('race-check', request)))
      stale += Math.max(...found)
    }
    return stale
  }

export default defineSuite({
  name: 'cache',
  title: 'Memory in front of Redis',
  servers: ['redis'],
  subjects: new URL('../subjects/cache.js', import.meta.url),
  cases: [
    rate('memory-hit', 'getOrSet of 1,000 keys that are all in memory', everyone),
    rate('memory-hit-3-tags', 'the same, each entry with three tags', [
      'flotilla',
      'floor',
      'bentocache',
      'async-cache-dedupe'
    ]),
    rate('peek', 'the synchronous look into memory; floor is lru-cache with a ttl, lru-cache without one', [
      'flotilla',
      'floor',
      'lru-cache',
      'layered-loader'
    ]),
    rate('redis-hit', 'getOrSet from Redis alone, 16 at a time', everyone),
    rate(
      'miss',
      'getOrSet of cold keys, 16 at a time; floor and async-cache-dedupe fill memory alone',
      everyone
    ),
    {
      name: 'stampede',
      title: '8 processes, 1,000 callers each, one cold key whose factory takes 100 ms',
      unit: 'factory calls',
      higherIsBetter: false,
      subjects: {
        flotilla: { instances: 8 },
        'layered-loader': { instances: 8 },
        bentocache: { instances: 8 },
        'async-cache-dedupe': { instances: 8 },
        'cache-manager': { instances: 8 }
      },
      fresh: true,
      maxRounds: 3,
      measure: stampede
    },
    {
      name: 'stale-delete',
      title: '1,000 fills against a delete in another process',
      unit: 'stale keys',
      higherIsBetter: false,
      subjects: {
        flotilla: { instances: 3 },
        bentocache: { instances: 3 },
        'layered-loader': { instances: 3 }
      },
      fresh: true,
      maxRounds: 1,
      patience: 120_000,
      measure: race(false)
    },
    {
      name: 'stale-tag',
      title: '1,000 fills against the invalidation of their tag in another process',
      unit: 'stale keys',
      higherIsBetter: false,
      subjects: { flotilla: { instances: 3 }, bentocache: { instances: 3 } },
      fresh: true,
      maxRounds: 1,
      patience: 120_000,
      measure: race(true)
    },
    {
      name: 'memory-per-entry',
      title: 'heap for an entry of 200 characters, key and value included',
      unit: 'bytes',
      higherIsBetter: false,
      subjects: ['flotilla', 'floor', 'layered-loader', 'bentocache', 'async-cache-dedupe'],
      fresh: true,
      maxRounds: 1,
      patience: 180_000,
      measure: work('memory-per-entry')
    },
    {
      name: 'http-hit',
      title: 'a cached GET route of 1 kB of JSON',
      unit: 'req/s',
      subjects: {
        flotilla: { process: 'flotilla-http' },
        floor: { process: 'floor-http' },
        bare: { process: 'bare-http' }
      },
      measure: http({
        plan: () => ({ requests: [{ path: '/posts', expect: { includes: '"title":"post 9"' } }] })
      })
    }
  ]
})
