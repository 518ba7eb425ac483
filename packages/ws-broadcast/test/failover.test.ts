import { setTimeout as sleep } from 'node:timers/promises'
import { startCluster, startRedis, startSentinel, until } from '@flotilla/testbed'
import { test } from 'tap'
import { connect } from '../src/client/index.js'
import { WebSocket } from 'ws'
import { RawClient, startTestApp, type TestApp } from './app.js'

/** Publishes until Redis takes it. */
async function publishAnyway(
  { app }: TestApp,
  channel: string,
  data: unknown,
  durable = false
): Promise<void> {
  const options = { durable, idempotencyKey: `p${String(data)}` }
  await until(() => app.broadcast.publish(channel, data, options).catch(() => undefined), {
    timeout: 20_000,
    message: `${String(data)} is published`
  })
}

test('a failover that lost acknowledged messages makes no client drop a new one', async (t) => {
  const redis = await startSentinel()
  t.teardown(() => redis.stop())
  const [a, b] = await Promise.all([startTestApp(t, redis.url), startTestApp(t, redis.url)])
  const stayed = await RawClient.open(t, a.ws)
  await stayed.subscribe('news')
  const before = await a.app.broadcast.publish('news', 'before')
  const replicas = await redis.replicas()
  await until(async () => {
    const streams = await Promise.all(replicas.map((one) => one.command('XLEN', 'flotilla:ws:{news}:log')))
    return streams.every((length) => length === 1)
  })

  // Frozen, so that they cannot connect again, and cut off: what follows is acknowledged by the master alone.
  const master = await redis.master()
  for (const replica of replicas) replica.pause()
  await master.command('CLIENT', 'KILL', 'TYPE', 'replica')
  for (const lost of ['lost 1', 'lost 2', 'lost 3']) await a.app.broadcast.publish('news', lost)
  await stayed.count(4)
  const tail = stayed.of('message').at(-1)!
  await master.kill()
  for (const replica of replicas) replica.resume()
  const promoted = await redis.waitForFailover(master, 30_000)
  t.equal(
    await promoted.command('XLEN', 'flotilla:ws:{news}:log'),
    1,
    'the promoted replica had lost the tail'
  )

  for (const data of ['new 1', 'new 2']) await publishAnyway(b, 'news', data)
  await until(() => stayed.data().includes('new 2'), { message: 'the client that stayed gets the new ones' })
  t.same(stayed.data(), ['before', 'lost 1', 'lost 2', 'lost 3', 'new 1', 'new 2'])
  const types = stayed.frames.filter(({ type }) => type === 'message' || type === 'gap')
  t.match(
    types[4],
    { type: 'gap', reason: 'failover' },
    'what was acknowledged may be lost: it is told before the first new one'
  )
  t.equal(stayed.of('gap').length, 1)

  // One that had read the lost tail, and one from before it, come back on the other instance.
  for (const since of [tail, before]) {
    const back = await RawClient.open(t, b.ws)
    const answer = await back.subscribe('news', { epoch: since.epoch, offset: since.offset })
    t.equal(answer.recovered, false)
    await back.count(2)
    t.same(back.data(), ['new 1', 'new 2'])
    t.same(
      back.of('gap').map(({ reason }) => reason),
      ['failover']
    )
  }
})

test('a durable publish that a replaced master took is refused, though a replica that stayed confirms it', async (t) => {
  const redis = await startSentinel({ replicas: 1 })
  t.teardown(() => redis.stop())
  const old = await redis.master()
  await redis.startStray(old)
  const { app } = await startTestApp(t, redis.url)
  await app.broadcast.publish('news', 'before', { durable: true })

  old.pause()
  await redis.waitForFailover(old)
  old.resume()
  await t.rejects(app.broadcast.publish('news', 'late', { durable: true }), {
    code: 'FLOTILLA_WS_ERR_NOT_DURABLE'
  })
  t.equal(await old.command('XLEN', 'flotilla:ws:{news}:log'), 2, 'the old master took it')
  // Until the Sentinels have ended the failover, the new master is refused as well, though it has the message.
  const options = { durable: true, idempotencyKey: 'after' }
  await until(() => app.broadcast.publish('news', 'after', options).then(Boolean, () => false), {
    timeout: 20_000
  })
  const promoted = await redis.master()
  t.not(promoted, old)
  t.equal(await promoted.command('XLEN', 'flotilla:ws:{news}:log'), 2, 'before and after')
})

test('offsets that a lost master had handed out from a fast clock are not mistaken for the future', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url)
  const { epoch, offset } = await server.app.broadcast.publish('news', 1)
  const client = connect(server.ws, { WebSocket })
  t.teardown(() => client.close())
  const seen: unknown[] = []
  const ahead = `${Number(offset!.split('-')[0]) + 3_600_000}-0`
  await client.subscribe('news', ({ data }) => seen.push(data), { since: { epoch: epoch!, offset: ahead } })
    .ready
  // As a promoted replica of another history would have it.
  await redis.command('HSET', 'flotilla:ws:{news}:meta', 'fence', 'another')
  await server.app.broadcast.publish('news', 2)
  await until(() => seen.length > 0)
  t.same(seen, [2])
  const raw = await RawClient.open(t, server.ws)
  const answer = await raw.subscribe('news', { epoch, offset: ahead })
  t.equal(answer.recovered, false, 'the epoch tells that 2 is new to a client that was ahead')
  await raw.count(1)
  t.same(raw.data(), [2])
})

test('what pub/sub missed is read once a channel, and the sockets stay', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url)
  const clients = await Promise.all(Array.from({ length: 20 }, () => RawClient.open(t, server.ws)))
  for (const client of clients) {
    await client.subscribe('news')
    await client.subscribe('plain:1')
  }
  const { commands } = await redis.countCommands(async () => {
    for (let n = 0; n < 100; n += 1) {
      if (n % 10 === 5) await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
      await server.app.broadcast.publish('news', n)
    }
    await Promise.all(clients.map((client) => client.count(100, 'news')))
  })
  for (const client of clients)
    t.same(
      client.data('news'),
      Array.from({ length: 100 }, (_none, n) => n)
    )
  t.equal(clients.filter(({ closed }) => closed).length, 0)
  const reads = commands.filter(([name, , keys]) => name === 'EVALSHA' && keys === '2').length
  t.ok(reads > 0 && reads <= 40, `${reads} reads for 20 sockets and 10 interruptions`)
  await until(() => clients.every((client) => client.of('gap', 'plain:1').length > 0))
  t.equal(clients[0]!.of('gap', 'plain:1')[0]!.reason, 'interrupted')
  t.equal(clients[0]!.of('gap', 'news').length, 0)
})

test('a server that forgot everything is a gap and not a silence', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url)
  const client = await RawClient.open(t, server.ws)
  await client.subscribe('news')
  await server.app.broadcast.publish('news', 1)
  await redis.restart()
  await publishAnyway(server, 'news', 2)
  await until(() => client.data().includes(2))
  t.same(client.data(), [1, 2])
  t.equal(client.of('gap')[0]?.reason, 'epoch')
})

for (const durable of [false, true]) {
  const what = durable ? 'durable publishes and sharded pub/sub' : 'sharded pub/sub'
  test(`a slot that moves under way loses nothing and doubles nothing of ${what}`, async (t) => {
    const redis = await startCluster()
    t.teardown(() => redis.stop())
    const options = { channels: { news: { history: { size: 1000 }, durable } } }
    const [a, b] = await Promise.all([
      startTestApp(t, redis.url, options),
      startTestApp(t, redis.url, options)
    ])
    const client = await RawClient.open(t, b.ws)
    await client.subscribe('news')
    let published = 0
    const state = { over: false }
    const publishing = (async () => {
      while (!state.over || published < 60) {
        await publishAnyway(a, 'news', published, durable)
        published += 1
        await sleep(5)
      }
    })()
    await client.count(10)
    await redis.migrateSlot('flotilla:ws:{news}')
    await client.count(published)
    state.over = true
    await publishing
    await client.count(published)
    t.same(
      client.data(),
      Array.from({ length: published }, (_none, n) => n)
    )
    // To the log, another master is another master: only what a replica had is known to be there.
    t.same(
      client.of('gap').map(({ reason }) => reason),
      durable ? [] : ['failover']
    )
    if (!durable) return
    const replica = (await redis.replicaOf('flotilla:ws:{news}')).client()
    await replica.readonly()
    const [[offset] = []] = await replica.xrevrange('flotilla:ws:{news}:log', '+', '-', 'COUNT', 1)
    t.equal(offset, client.of('message').at(-1)!.offset, 'its new replica has them')
  })
}

test('a durable publish is refused when no replica confirms, and says so', async (t) => {
  const alone = await startRedis()
  t.teardown(() => alone.stop())
  const server = await startTestApp(t, alone.url, { durableTimeout: 100 })
  await t.rejects(server.app.broadcast.publish('news', 1, { durable: true }), {
    code: 'FLOTILLA_WS_ERR_NOT_DURABLE'
  })
  const group = await startSentinel({ replicas: 1 })
  t.teardown(() => group.stop())
  const durable = await startTestApp(t, group.url, {
    channels: { news: { history: { size: 1000 }, durable: true } }
  })
  const results = await Promise.all(
    Array.from({ length: 300 }, (_none, n) => durable.app.broadcast.publish('news', n))
  )
  t.equal(new Set(results.map(({ offset }) => offset)).size, 300)
  const [replica] = await group.replicas()
  t.equal(await replica!.command('XLEN', 'flotilla:ws:{news}:log'), 300)

  replica!.pause()
  const retry = (): Promise<unknown> => durable.app.broadcast.publish('news', 'r', { idempotencyKey: 'r' })
  await t.rejects(retry(), { code: 'FLOTILLA_WS_ERR_NOT_DURABLE' })
  const master = await group.master()
  await master.command('CLIENT', 'KILL', 'TYPE', 'normal')
  const again = await until(() =>
    retry().catch(({ code }: { code: string }) => code !== 'FLOTILLA_WS_ERR_PUBLISH' && code)
  )
  t.equal(
    again,
    'FLOTILLA_WS_ERR_NOT_DURABLE',
    'a repeated publish on a new connection is not confirmed either'
  )
  replica!.resume()
  t.match(await until(() => retry().catch(() => false)), { duplicate: true })
})

test('a durable publish may wait for its replica longer than other commands may take', async (t) => {
  const group = await startSentinel({ replicas: 1 })
  t.teardown(() => group.stop())
  const cluster = await startCluster({ nodeTimeout: 30_000 })
  t.teardown(() => cluster.stop())
  const owner = await cluster.masterOf('flotilla:ws:{news}')
  for (const [url, master, replicas] of [
    [group.url, await group.master(), await group.replicas()],
    [cluster.url, owner, [await cluster.replicaOf(owner)]]
  ] as const) {
    const { app } = await startTestApp(t, url, { durableTimeout: '30s' })
    await app.broadcast.publish('news', 'before', { durable: true })
    for (const replica of replicas) replica.pause()
    let settled = false
    const publishing = app.broadcast.publish('news', 'late', { durable: true }).finally(() => {
      settled = true
    })
    publishing.catch(() => undefined)
    // More than twice what a command may take by default.
    await until(async () => {
      const clients = String(await master.command('CLIENT', 'LIST'))
      return settled || / idle=([3-9]|\d\d).* cmd=wait/.test(clients)
    })
    for (const replica of replicas) replica.resume()
    t.match(await publishing, { duplicate: false })
  }
})

test('a clock that was set back never makes an offset smaller, even after the history expired', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url)
  await server.app.broadcast.publish('news', 1)
  const future = `${Date.now() + 3_600_000}-7`
  await redis.command('HSET', 'flotilla:ws:{news}:meta', 'last', future)
  await redis.command('DEL', 'flotilla:ws:{news}:log')
  const client = await RawClient.open(t, server.ws)
  await client.subscribe('news')
  const offsets = [
    await server.app.broadcast.publish('news', 2),
    await server.app.broadcast.publish('news', 3)
  ]
  t.same(
    offsets.map(({ offset }) => offset),
    [future.replace(/7$/, '8'), future.replace(/7$/, '9')]
  )
  await client.count(2)
  t.same(client.data(), [2, 3])
  const ttl = Number(await redis.command('PTTL', 'flotilla:ws:{news}:log'))
  t.ok(ttl > 600_000 - 5000 && ttl <= 660_000, `${ttl} ms to live`)
})
