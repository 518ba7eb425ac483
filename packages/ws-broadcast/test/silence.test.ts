import { startProxy, startRedis, until, type RedisServer, type TcpProxy } from '@flotilla/testbed'
import { test, type Test } from 'tap'
import { RawClient, startTestApp, type TestApp } from './app.js'

/** Two instances; `cut` one finds Redis through a proxy, so that it can be cut off while the other one publishes. */
async function startPair(
  t: Test
): Promise<{ redis: RedisServer; proxy: TcpProxy; cut: TestApp; other: TestApp }> {
  const redis = await startRedis({ args: ['--save', ''] })
  t.teardown(() => redis.stop())
  const proxy = await startProxy({ host: redis.host, port: redis.port })
  t.teardown(() => proxy.stop())
  const cut = await startTestApp(t, proxy.through(redis.url))
  const other = await startTestApp(t, redis.url)
  return { redis, proxy, cut, other }
}

async function publishAnyway({ app }: TestApp, channel: string, data: unknown): Promise<void> {
  await until(() => app.broadcast.publish(channel, data).catch(() => undefined), {
    timeout: 20_000,
    message: `${String(data)} is published`
  })
}

/** Messages and gaps in the order in which they came. */
function story({ frames }: RawClient): unknown[] {
  return frames.flatMap((frame) => {
    if (frame.type === 'message') return [frame.data]
    return frame.type === 'gap' ? [frame.reason] : []
  })
}

test('without history the gap comes before the first message after an interruption', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url)
  const client = await RawClient.open(t, server.ws)
  await client.subscribe('plain:1')
  const publisher = redis.client()
  const body = (n: number): string => `n \n{"type":"message","channel":"plain:1","data":${n}}`
  let n = 0
  const state = { over: false }
  const flood = async (): Promise<void> => {
    while (!state.over) {
      const pipeline = publisher.pipeline()
      for (let count = 0; count < 50; count += 1) pipeline.publish('flotilla:ws:{plain:1}', body((n += 1)))
      await pipeline.exec()
    }
  }
  const flooding = flood()
  for (let round = 0; round < 15; round += 1) {
    const from = client.frames.length
    await until(() => client.frames.length > from + 100)
    await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await until(() => client.frames.slice(from).some(({ type }) => type === 'gap'))
  }
  state.over = true
  await flooding
  await until(() => client.data().at(-1) === n)
  const silent: unknown[] = []
  let last: unknown
  for (const one of story(client)) {
    if (typeof one === 'number' && typeof last === 'number' && one !== last + 1) silent.push([last, one])
    last = one
  }
  t.same(silent, [], 'no message is missing without a gap exactly before the next one')
  t.ok(client.of('gap').length >= 15)
})

test('a failover that lost what one client never saw is a gap for it', async (t) => {
  const { redis, proxy, cut, other } = await startPair(t)
  const client = await RawClient.open(t, cut.ws)
  await client.subscribe('news')
  const away = await RawClient.open(t, other.ws)
  for (const data of [1, 2]) await other.app.broadcast.publish('news', data)
  await client.count(2)
  await redis.command('SAVE')
  await proxy.refuse()
  const lost = await other.app.broadcast.publish('news', 'acknowledged and lost')
  t.ok(lost.offset)
  await redis.kill()
  await redis.restart()
  await publishAnyway(other, 'news', 3)
  await proxy.restore()
  await until(() => client.data().includes(3), { timeout: 20_000 })
  t.same(story(client), [1, 2, 'failover', 3])

  // So it is for clients that come back: from before the failover, and from the tail that was lost.
  const { epoch, offset } = client.of('message')[1]!
  for (const since of [
    { epoch, offset },
    { epoch, offset: lost.offset }
  ]) {
    const from = away.frames.length
    t.equal((await away.subscribe('news', since)).recovered, false)
    await until(() => away.frames.slice(from).some((frame) => frame.type === 'message'))
    t.same(
      away.frames.slice(from).map(({ type }) => type),
      ['subscribed', 'gap', 'message']
    )
  }
  const all = await RawClient.open(t, other.ws)
  await all.subscribe('news', { epoch: '', offset: '0-0' })
  await all.count(3)
  t.same(story(all), [1, 2, 'failover', 3], 'and for one that reads all that is kept')
})

test('the first message of a channel is not lost silently', async (t) => {
  const { redis, proxy, cut, other } = await startPair(t)
  const client = await RawClient.open(t, cut.ws)
  const { epoch, offset } = await client.subscribe('news')
  t.match(epoch, /^[0-9a-f]{12}$/, 'the channel has an epoch before its first message')
  t.equal(offset, '0-0')
  t.equal((await client.subscribe('news')).epoch, epoch, 'and keeps it')
  await proxy.refuse()
  await other.app.broadcast.publish('news', 'acknowledged and lost')
  await redis.kill()
  await redis.restart()
  await publishAnyway(other, 'news', 1)
  await proxy.restore()
  await until(() => client.data().includes(1), { timeout: 20_000 })
  t.same(story(client), ['epoch', 1])

  const back = await RawClient.open(t, other.ws)
  t.equal((await back.subscribe('news', { epoch, offset })).recovered, false)
  await back.count(1)
  t.same(story(back), ['epoch', 1])
})

test('the epoch before the first message is the one that the first message has', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url)
  const client = await RawClient.open(t, server.ws)
  const start = await client.subscribe('load:first')
  const ttl = Number(await redis.command('PTTL', 'flotilla:ws:{load:first}:meta'))
  t.ok(ttl > 0 && ttl <= 3_600_000, 'a channel that only was named is forgotten soon')
  const first = await server.app.broadcast.publish('load:first', 1)
  t.equal(first.epoch, start.epoch)
  await client.count(1)
  t.ok(Number(await redis.command('PTTL', 'flotilla:ws:{load:first}:meta')) > 3_600_000)
  const late = await RawClient.open(t, server.ws)
  const answer = await late.subscribe('load:first', { epoch: '', offset: '0-0' })
  t.match(answer, { epoch: start.epoch, offset: '0-0', recovered: true })
  await late.count(1)
  t.same(story(late), [1])
})

test('a server that takes no writes can be read', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url)
  await redis.command('CONFIG', 'SET', 'maxmemory', '1')
  const client = await RawClient.open(t, server.ws)
  t.match(await client.subscribe('news'), { epoch: '', offset: '0-0', recovered: true })
  await redis.command('CONFIG', 'SET', 'maxmemory', '0')
  await server.app.broadcast.publish('news', 1)
  await client.count(1)
  t.same(story(client), [1])
})
