import { setImmediate as turn } from 'node:timers/promises'
import { startRedis, until } from '@flotilla/testbed'
import { test, type Test } from 'tap'
import { WebSocket } from 'ws'
import { connect } from '../src/client/index.js'
import type { BackpressurePolicy } from '../src/channel-rules.js'
import type { PublishResult } from '../src/index.js'
import { RawClient, startTestApp, type TestApp } from './app.js'

const HIGH = 65_536
const MESSAGE = 'x'.repeat(8000)

async function setUp(
  t: Test,
  backpressure: BackpressurePolicy,
  kept = backpressure === 'resync'
): Promise<TestApp> {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  return startTestApp(t, redis.url, {
    channels: { feed: { ...(kept && { history: { size: 5000 } }), backpressure, presence: true } },
    highWaterMark: HIGH
  })
}

/** Publishes until the stalled client's buffer in the kernel is full and the server has noticed. */
async function fill({ app }: TestApp, from = 0): Promise<number> {
  let n = from
  await until(
    async () => {
      await Promise.all(
        Array.from({ length: 50 }, () =>
          app.broadcast.publish('feed', { n: (n += 1), text: MESSAGE }, { conflateKey: `k${n % 3}` })
        )
      )
      return app.broadcast.stats().slow > 0
    },
    { message: 'the stalled client counts as slow', timeout: 30_000, interval: 1 }
  )
  return n
}

const numbers = (client: RawClient): number[] => client.data().map((data) => (data as { n: number }).n)

test('resync: memory stays bounded, the others feel nothing, and nothing is missing afterwards', async (t) => {
  const server = await setUp(t, 'resync')
  const [stalled, other] = [await RawClient.open(t, server.ws), await RawClient.open(t, server.ws)]
  await stalled.subscribe('feed')
  await other.subscribe('feed')

  const latency = async (rounds: number): Promise<number> => {
    const times: number[] = []
    for (let round = 0; round < rounds; round += 1) {
      const count = other.of('message').length
      const begin = performance.now()
      await server.app.broadcast.publish('feed', { n: 0, text: '' })
      await until(() => other.of('message').length > count, { interval: 1 })
      times.push(performance.now() - begin)
    }
    return times.toSorted((a, b) => a - b)[Math.floor(rounds * 0.99) - 1]!
  }
  const calm = await latency(100)
  stalled.ws.pause()
  const n = await fill(server)
  let worst = 0
  for (let round = 0; round < 20; round += 1) {
    await Promise.all(
      Array.from({ length: 50 }, (_none, index) =>
        server.app.broadcast.publish('feed', { n: n + round * 50 + index + 1, text: MESSAGE })
      )
    )
    worst = Math.max(worst, server.app.broadcast.stats().bufferedBytes)
  }
  // Twice the mark for each of the two: one write below it and one that goes over.
  t.ok(worst < HIGH * 4, `${worst} bytes at most while 8 MB were published`)
  const beside = await latency(100)
  // `latency` has seen each of its messages arrive; the figures are for the reader.
  t.comment(`p99 beside a stalled reader ${beside.toFixed(1)} ms, before it stalled ${calm.toFixed(1)} ms`)
  await until(() => numbers(other).includes(n + 1000), { message: 'the other has all' })
  t.ok(server.app.broadcast.stats().slow >= 1, 'it stalls still')
  t.notOk(numbers(stalled).includes(n + 1000))
  t.equal(stalled.closed, undefined)

  stalled.ws.resume()
  const last = n + 1000
  await until(() => numbers(stalled).includes(last), { timeout: 20_000 })
  const got = numbers(stalled).filter((one) => one > 0)
  t.same(
    got.toSorted((a, b) => a - b),
    Array.from({ length: last }, (_none, index) => index + 1),
    'all of them, once'
  )
  t.same(
    got,
    numbers(other).filter((one) => one > 0),
    'in the order of the log'
  )
  t.equal(stalled.of('gap').length, 0)
  await server.app.broadcast.publish('feed', { n: last + 1 })
  await until(() => numbers(stalled).at(-1) === last + 1, { message: 'live again' })
})

test('resync: what a slow client catches up on is read from Redis about once, however long its messages', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url, {
    channels: { feed: { history: { size: 1000 } } }
  })
  const long = 'x'.repeat(60_000)
  for (let n = 0; n < 250; n += 10) {
    await Promise.all(Array.from({ length: 10 }, () => server.app.broadcast.publish('feed', long)))
  }
  const sent = async (): Promise<number> =>
    Number(/total_net_output_bytes:(\d+)/.exec((await redis.command('INFO', 'stats')) as string)![1])
  const before = await sent()
  const client = await RawClient.open(t, server.ws)
  await client.subscribe('feed', { epoch: '', offset: '0-0' })
  await client.count(250)
  const times = ((await sent()) - before) / (250 * 60_000)
  t.ok(times < 1.5, `${times} times`)
})

test('drop: skips what does not fit, then says so', async (t) => {
  const server = await setUp(t, 'drop')
  const client = await RawClient.open(t, server.ws)
  await client.subscribe('feed')
  client.ws.pause()
  const n = await fill(server)
  await Promise.all(
    Array.from({ length: 100 }, () => server.app.broadcast.publish('feed', { n: -1, text: MESSAGE }))
  )
  client.ws.resume()
  await until(() => client.of('gap').length > 0)
  t.equal(client.of('gap')[0]!.reason, 'slow')
  t.ok(client.data().length < n + 100)
  await server.app.broadcast.publish('feed', { n: -2 })
  await until(() => numbers(client).at(-1) === -2)
})

test('conflate: the latest of each key arrives', async (t) => {
  const server = await setUp(t, 'conflate')
  const client = await RawClient.open(t, server.ws)
  await client.subscribe('feed')
  client.ws.pause()
  await fill(server)
  for (const conflateKey of ['a', 'b c', 'a', 'ä', 'b c', 'a']) {
    await server.app.broadcast.publish('feed', { n: conflateKey, text: MESSAGE }, { conflateKey })
  }
  await server.app.broadcast.publish('feed', { n: 'without a key' })
  const other = await RawClient.open(t, server.ws)
  await other.subscribe('feed')
  await other.next('join')
  client.ws.resume()
  const keys = (): unknown[] =>
    client
      .data()
      .map((data) => (data as { n: unknown }).n)
      .filter((n) => typeof n === 'string')
  await until(() => keys().length >= 4)
  await server.app.broadcast.publish('feed', { n: 'end' })
  await until(() => keys().includes('end'))
  t.same(keys(), ['ä', 'b c', 'a', 'without a key', 'end'], 'a presence event takes no message’s place')
})

test('conflate: what is held for a stalled client stays within the high-water mark, and the rest is a gap', async (t) => {
  const server = await setUp(t, 'conflate')
  const client = await RawClient.open(t, server.ws)
  await client.subscribe('feed')
  client.ws.pause()
  await fill(server)
  for (let n = 0; n < 50; n += 1) {
    await server.app.broadcast.publish('feed', { n: `key ${n}`, text: MESSAGE }, { conflateKey: `key ${n}` })
  }
  client.ws.resume()
  await until(() => client.of('gap').length > 0)
  const held = client
    .data()
    .map((data) => (data as { n: unknown }).n)
    .filter((n) => typeof n === 'string')
  t.ok(held.length >= 5 && held.length <= HIGH / MESSAGE.length, `${held.length} messages`)
  t.same(
    held,
    Array.from({ length: held.length }, (_none, index) => `key ${50 - held.length + index}`),
    'the latest'
  )
})

test('conflate with history: the client takes what was held, after a gap that lies before it', async (t) => {
  const server = await setUp(t, 'conflate', true)
  const sockets: WebSocket[] = []
  class Known extends WebSocket {
    constructor(url: string) {
      super(url)
      sockets.push(this)
    }
  }
  const client = connect(server.ws, { WebSocket: Known })
  t.teardown(() => client.close())
  const events: unknown[] = []
  client.on('gap', ({ reason }) => events.push(reason))
  const subscription = client.subscribe<{ n: unknown }>('feed', ({ data }) => {
    if (typeof data.n === 'string') events.push(data.n)
  })
  await subscription.ready
  sockets[0]!.pause()
  await fill(server)
  let last: PublishResult | undefined
  for (let n = 0; n < 50; n += 1) {
    const conflateKey = `key ${n}`
    last = await server.app.broadcast.publish('feed', { n: conflateKey, text: MESSAGE }, { conflateKey })
  }
  sockets[0]!.resume()
  await until(() => subscription.position?.offset === last?.offset && events.includes('slow'))
  const [gap, ...held] = events
  t.equal(gap, 'slow')
  t.ok(held.length >= 5, `${held.length} messages`)
  t.same(
    held,
    Array.from({ length: held.length }, (_none, index) => `key ${50 - held.length + index}`),
    'the latest'
  )
  await server.app.broadcast.publish('feed', { n: 'afterwards' })
  await until(() => events.at(-1) === 'afterwards')
})

test('disconnect: a client that does not read is sent away, and its memory with it', async (t) => {
  const server = await setUp(t, 'disconnect')
  const client = await RawClient.open(t, server.ws)
  await client.subscribe('feed')
  client.ws.pause()
  await fill(server)
  await server.app.broadcast.publish('feed', { n: 1 })
  await until(() => server.app.broadcast.stats().connections === 0, { message: 'the connection is ended' })
  t.equal(server.app.broadcast.stats().bufferedBytes, 0)
})

test('a client that sends and never reads is not listened to, and then sent away', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url, {
    highWaterMark: 16_384,
    rate: { perSecond: 1_000_000, burst: 1_000_000 },
    ping: { interval: 1000, timeout: 500 }
  })
  const client = await RawClient.open(t, server.ws)
  client.ws.pause()
  const command = { type: 'unsubscribe', id: 'i'.repeat(64), channel: `no:${'n'.repeat(190)}` }
  let worst = 0
  await until(
    () => {
      for (let n = 0; n < 200 && client.ws.bufferedAmount < 10_000_000; n += 1) client.send(command)
      const { connections, bufferedBytes } = server.app.broadcast.stats()
      worst = Math.max(worst, bufferedBytes)
      return connections === 0
    },
    { timeout: 30_000, interval: 1 }
  )
  t.ok(worst < 3 * 16_384, `its answers are not kept: ${worst} bytes at most`)
})

test('what sends a client away is not how long a message waits for it but how many answers pile up behind', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const highWaterMark = 10_000
  const LONG = 500_000
  let refuse: (() => void)[] = []
  const server = await startTestApp(t, redis.url, {
    channels: { 'feed:*': { history: {}, publish: 'client' } },
    highWaterMark,
    maxPayload: '1mb',
    authorize: (_request, _channel, action) =>
      action === 'subscribe' || new Promise((resolve) => refuse.push(() => resolve(false)))
  })
  const { app } = server
  for (const [answers, channel] of [
    [1, 'feed:1'],
    [100, 'feed:2']
  ] as const) {
    const client = await RawClient.open(t, server.ws)
    await client.subscribe(channel)
    for (let n = 0; n < answers; n += 1) client.send({ type: 'publish', id: n, channel, data: n })
    await until(() => refuse.length === answers)
    client.ws.pause()
    await until(
      async () => {
        await app.broadcast.publish(channel, 'x'.repeat(LONG))
        return app.broadcast.stats().slow === 1
      },
      { message: 'a long message waits', timeout: 30_000, interval: 1 }
    )
    for (const answer of refuse) answer()
    refuse = []
    await turn()
    t.ok(app.broadcast.stats().bufferedBytes < LONG + 3 * highWaterMark, 'what waits is bounded')
    client.ws.resume()
    if (answers === 1) {
      await until(() => client.closed ?? client.of('error').length === 1)
      await app.broadcast.publish(channel, 'afterwards')
      await until(() => client.closed ?? client.data().at(-1) === 'afterwards')
      t.equal(client.closed, undefined)
      client.ws.terminate()
      await until(() => app.broadcast.stats().connections === 0)
    } else {
      await until(() => client.closed)
      t.equal(client.closed!.code, 4430)
    }
  }
})

test('a client that asks much at once and reads is answered, however long the answers are', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url, {
    channels: { 'room:*': { presence: () => 'x'.repeat(2000) }, 'load:*': {} },
    rate: { perSecond: 1_000_000, burst: 1_000_000 }
  })
  const members = await Promise.all(Array.from({ length: 5 }, () => RawClient.open(t, server.ws)))
  for (const member of members) await member.subscribe('room:1')
  const client = await RawClient.open(t, server.ws)
  for (let n = 0; n < 300; n += 1) client.send({ type: 'presence', id: n, channel: 'room:1' })
  for (let n = 0; n < 8000; n += 1)
    client.send({ type: 'unsubscribe', id: n, channel: `load:${'n'.repeat(150)}` })
  await until(
    () => client.closed ?? (client.of('presence').length === 300 && client.of('unsubscribed').length === 8000)
  )
  t.equal(client.closed, undefined)
  t.same(
    client.of('unsubscribed').map(({ id }) => id),
    Array.from({ length: 8000 }, (_none, n) => n),
    'in the order they were asked'
  )
  t.equal(new Set(client.of('presence').map((answer) => answer.members.length)).size, 1)
})

test('with permessage-deflate the messages go through ws, and policies hold', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url, { compression: true, highWaterMark: HIGH })
  const client = await RawClient.open(t, server.ws, { perMessageDeflate: true })
  const plain = await RawClient.open(t, server.ws)
  t.match(client.ws.extensions, /permessage-deflate/)
  for (const one of [client, plain]) await one.subscribe('load:z')
  client.ws.pause()
  for (let n = 0; n < 60; n += 1) {
    const text = Array.from({ length: 900 }, () => Math.random().toString(36)).join('')
    await server.app.broadcast.publish('load:z', { n, text })
  }
  client.ws.resume()
  for (const one of [client, plain]) {
    await one.count(60)
    t.same(
      numbers(one),
      Array.from({ length: 60 }, (_none, n) => n)
    )
  }
})
