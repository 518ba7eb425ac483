import { get } from 'node:http'
import { flotillaRedis } from '@flotilla/redis'
import { listen, startRedis, until } from '@flotilla/testbed'
import Fastify, { type FastifyInstance } from 'fastify'
import { test } from 'tap'
import health from '../src/index.js'

test('each phase of a drain is told once, with how it ended', async (t) => {
  const phases = listen(t, 'flotilla:health:drain')
  const app = Fastify()
  await app.register(health, { drain: { signals: false, delay: 100, quiet: 0, timeout: 1500 } })
  app.health.onDrain('quick', () => undefined)
  app.health.onDrain('fails', () => Promise.reject(new Error('no')))
  app.health.onDrain('hangs', () => new Promise<void>(() => undefined))
  let arrived = false
  app.get('/hangs', () => {
    arrived = true
    return new Promise(() => undefined)
  })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  get(`${url}/hangs`).on('error', () => undefined)
  await until(() => arrived && app.health.state === 'ready')
  const [first, second] = [app.health.drain(), app.health.drain()]
  t.equal(await first, false, 'a request was cut')
  t.equal(await second, false)
  t.match(phases, [
    { phase: 'linger', outcome: 'done', durationMs: Number },
    { phase: 'quick', outcome: 'done', durationMs: Number },
    { phase: 'fails', outcome: 'failed', durationMs: Number },
    { phase: 'hangs', outcome: 'late', durationMs: Number },
    { phase: 'requests', outcome: 'late', durationMs: Number }
  ])
  t.equal(phases.length, 5)
  t.ok((phases[0]!['durationMs'] as number) >= 99, 'in milliseconds')
  t.ok((phases[3]!['durationMs'] as number) > 500)
})

test('heartbeats and evictions are told once, by whoever made them', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const [beats, evictions] = [listen(t, 'flotilla:health:heartbeat'), listen(t, 'flotilla:health:eviction')]
  const key = (name: string): string => `{flotilla:fleet:app}:${name}`
  const start = async (): Promise<FastifyInstance> => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(flotillaRedis, { url: redis.url, commandTimeout: '300ms' })
    await app.register(health, { fleet: { name: 'app', lease: 900 }, drain: { signals: false } })
    await app.listen({ port: 0, host: '127.0.0.1' })
    return app
  }
  const apps = [await start(), await start()]
  await until(() => beats.length > 4)
  for (const beat of beats) t.match(beat, { outcome: 'renewed', durationMs: Number })

  await redis.command('ZADD', key('leases'), 1, 'ghost')
  await until(() => evictions.length > 0)
  const seen = beats.length
  await until(() => beats.length > seen + 4)
  t.same(evictions, [{ instance: 'ghost' }], 'by one of the two')

  // As one that was cut off for longer than its lease finds it.
  await redis.command('ZREM', key('leases'), apps[0]!.bus.instance)
  await redis.command('ZADD', key('evicted'), 99999999999999, apps[0]!.bus.instance)
  beats.length = 0
  await until(() => beats.some(({ outcome }) => outcome === 'fenced'))
  const rest = beats.length
  await until(() => beats.length > rest + 4)
  t.equal(beats.filter(({ outcome }) => outcome === 'fenced').length, 1)

  redis.pause()
  t.teardown(() => redis.resume())
  await until(() => beats.at(-1)!['outcome'] === 'failed')
  t.ok((beats.at(-1)!['durationMs'] as number) > 200)
  t.same(Object.keys(beats.at(-1)!).sort(), ['durationMs', 'outcome'])
})
