import { listen, startRedis, until } from '@flotilla/testbed'
import { test } from 'tap'
import { RawClient, startTestApp } from './app.js'

test('a connection comes and goes, a message is stored and delivered', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const [connects, disconnects] = [
    listen(t, 'flotilla:ws:connect'),
    listen<{ durationMs: number }>(t, 'flotilla:ws:disconnect')
  ]
  const [publishes, delivers] = [
    listen<{ durationMs: number }>(t, 'flotilla:ws:publish'),
    listen(t, 'flotilla:ws:deliver')
  ]
  const server = await startTestApp(t, redis.url, { authenticate: async () => ({ userId: 'ada' }) })
  const client = await RawClient.open(t, server.ws)
  const { connection } = await client.next('welcome')
  t.same(connects, [{ connection, userId: 'ada', transport: 'ws' }])

  await client.subscribe('news')
  await (await RawClient.open(t, server.ws)).subscribe('news')
  await server.app.broadcast.publish('news', { n: 1 })
  await client.count(1)
  t.match(publishes, [{ channel: 'news', bytes: Number, durationMs: Number }])
  t.ok(publishes[0]!.durationMs > 0)
  t.match(delivers, [{ channel: 'news', sockets: 2, bytes: Number }])

  client.ws.close(4001)
  await until(() => disconnects.length > 0)
  t.match(disconnects, [{ connection, code: 4001 }])
  t.ok(disconnects[0]!.durationMs > 0)
})

test('a gap is said once, with the sockets that were told', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const gaps = listen<{ reason: string; sockets: number }>(t, 'flotilla:ws:gap')
  const server = await startTestApp(t, redis.url)
  const clients = [await RawClient.open(t, server.ws), await RawClient.open(t, server.ws)]
  for (const client of clients) await client.subscribe('plain:1')
  await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(() => clients.every((client) => client.of('gap').length > 0))
  t.same(gaps, [{ channel: 'plain:1', reason: 'interrupted', sockets: 2 }])

  for (let n = 0; n < 8; n += 1) await server.app.broadcast.publish('short:1', n)
  await clients[0]!.subscribe('short:1', { epoch: '', offset: '0-0' })
  await clients[0]!.subscribe('short:1', { epoch: 'of another log', offset: '1-0' })
  t.same(gaps.slice(1), [{ channel: 'short:1', reason: 'epoch', sockets: 1 }])
})

test('a socket over its high-water mark is said once', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const slow = listen<{ bytes: number }>(t, 'flotilla:ws:slow')
  const server = await startTestApp(t, redis.url, {
    channels: { feed: { history: { size: 5000 } } },
    highWaterMark: 65_536
  })
  const client = await RawClient.open(t, server.ws)
  const { connection } = await client.next('welcome')
  await client.subscribe('feed')
  client.ws.pause()
  await until(
    async () => {
      await Promise.all(
        Array.from({ length: 50 }, () => server.app.broadcast.publish('feed', 'x'.repeat(8000)))
      )
      return server.app.broadcast.stats().slow > 0
    },
    { timeout: 30_000, interval: 1 }
  )
  t.match(slow, [{ connection, bytes: Number }])
  t.ok(slow[0]!.bytes > 65_536)
})
