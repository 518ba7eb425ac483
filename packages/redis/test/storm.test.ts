import { Worker } from 'node:worker_threads'
import { startRedis, until, type RedisServer } from '@flotilla/testbed'
import { test, type Test } from 'tap'
import { publishTo, resolveSubscriber } from '../src/index.js'
import { startApp } from './fixtures/app.js'
import { block } from './fixtures/block.js'
import { subscriberSockets } from './fixtures/sockets.js'

const COUNT = 100_000

async function connectionsReceived(server: RedisServer): Promise<number> {
  return Number(/total_connections_received:(\d+)/.exec(String(await server.command('INFO', 'stats')))?.[1])
}

async function storm(t: Test, onHalf: () => void): Promise<void> {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url })
  const subscriber = resolveSubscriber(app, app.redis)
  await app.ready()
  await app.bus.ready()
  const gaps: unknown[] = []
  subscriber.onGap((gap) => gaps.push({ ...gap, channels: gap.channels.length }))
  const heard = new Set<string>()
  const before = await connectionsReceived(server)

  let acknowledged = 0
  await Promise.all(
    Array.from({ length: COUNT }, async (_, n) => {
      const channel = `room:${n}`
      await subscriber.subscribe(channel, (_message, name) => heard.add(name))
      if (++acknowledged === COUNT / 2) onHalf()
    })
  )
  t.equal(acknowledged, COUNT)
  t.same(gaps, [], 'no gap')
  t.equal((await subscriberSockets(server)).length, 1, 'one subscriber connection')
  // `command` opens one each time.
  t.equal(await connectionsReceived(server), before + 2, 'which was never replaced')
  for (const n of [0, 1, COUNT / 2, COUNT - 1]) {
    t.equal(await publishTo(app.redis, `room:${n}`, 'hello'), 1)
    await until(() => heard.has(`room:${n}`))
  }
}

void test('100,000 channels subscribed at once: all acknowledged, on one connection, without a gap', async (t) => {
  await storm(t, () => {})
})

void test('the same with the event loop blocked for 3 s in the middle', async (t) => {
  await storm(t, () => block(3_000))
})

void test('the event loop blocked again and again: no gap, and nothing is subscribed twice', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, {
    url: server.url,
    commandTimeout: 200,
    bus: { probeInterval: 100, probeTimeout: 200 }
  })
  await app.ready()
  await app.bus.ready()
  const gaps: unknown[] = []
  app.bus.onGap((gap) => gaps.push(gap))
  for (let blocks = 0; blocks < 8; blocks++) {
    const probedAt = app.bus.status().lastProbeAt
    // A heartbeat of the link is under way at some of these, a probe of the bus at most.
    await until(() => app.bus.status().lastProbeAt !== probedAt)
    block(1_100)
  }
  t.same(gaps, [])
  t.equal(app.bus.status().gaps, 0)
})

void test('a gap is announced before the first message that follows it', async (t) => {
  // Without a password: the publisher below speaks to a bare socket.
  const server = await startRedis({ password: false })
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url })
  const subscriber = resolveSubscriber(app, app.redis)
  await app.ready()
  const heard: string[] = []
  await subscriber.subscribe('room', () => heard.push('message'))
  subscriber.onGap(({ recovered }) => heard.push(recovered ? 'recovered' : 'lost'))
  // Publishes from a thread of its own: messages arrive right behind the acknowledgement, and are read with it.
  const publisher = new Worker(
    `const socket = require('node:net').connect(${server.port}, '127.0.0.1', () => setInterval(() => socket.write('PUBLISH room x\\r\\n'), 1)).resume()`,
    { eval: true }
  )
  t.teardown(() => publisher.terminate())
  const busy = setInterval(() => block(10), 1)
  t.teardown(() => clearInterval(busy))
  const count = (what: string): number => heard.filter((one) => one === what).length
  for (let round = 1; round <= 10; round++) {
    const messages = count('message')
    await until(() => count('message') > messages)
    await server.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await until(() => count('recovered') === round)
  }
  clearInterval(busy)
  for (const [at, what] of heard.entries()) {
    if (what === 'lost') t.equal(heard[at + 1], 'recovered', 'nothing lies between the loss and the recovery')
  }
})
