import { flotillaRedis, resolveSubscriber } from '@flotilla/redis'
import { listen, startRedis, until } from '@flotilla/testbed'
import Fastify from 'fastify'
import { test, type Test } from 'tap'
import { ChannelKeys } from '../src/channel-keys.js'
import { HistoryReader, type HistoryPage } from '../src/history.js'
import { Hub } from '../src/hub.js'
import { Connection } from '../src/connection.js'
import { Outbox, type Batch } from '../src/outbox.js'
import { Subscription } from '../src/subscription.js'
import { Hubs } from '../src/hubs.js'
import { MessageFrame } from '../src/message-frame.js'
import { samePosition } from '../src/position.js'
import { RecentMessages } from '../src/recent-messages.js'
import type { Position } from '../src/protocol.js'
import { createPublisher, type Publisher } from '../src/publisher.js'

interface Bench {
  publisher: Publisher
  hub: Hub
  /** Messages that pub/sub has brought. */
  received: number
  /** Offsets in the order they were delivered. */
  delivered: string[]
  command: (...args: (string | number)[]) => Promise<unknown>
  /** What pub/sub brings is held back until it is called off. */
  hold(): () => void
  /** Happens once, between Redis's answer to the next read and its arrival. */
  afterRead: (() => Promise<void>) | undefined
}

const RULE = {
  pattern: 'news',
  history: { size: 5000, ttl: 600_000 },
  presence: undefined,
  clientPublish: false,
  schema: undefined,
  onPublish: undefined,
  backpressure: 'resync' as const,
  durable: false
}

/** A hub on a real Redis, with `meanwhile` happening between its two first steps: subscribed, and told where the log ends. */
async function setUp(
  t: Test,
  meanwhile: (bench: Bench) => Promise<unknown> = async () => undefined
): Promise<Bench> {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const keys = new ChannelKeys('flotilla:ws:', '')
  const publisher = createPublisher({
    redis: redis.client(),
    channels: { news: { history: { size: 5000 } } }
  })
  t.teardown(() => publisher.close())
  class Slow extends HistoryReader {
    override async end(channel: string): Promise<Position> {
      const end = await super.end(channel)
      await meanwhile(bench)
      return end
    }
    override async read(channel: string, since: Position): Promise<HistoryPage> {
      const page = await super.read(channel, since)
      const { afterRead } = bench
      bench.afterRead = undefined
      await afterRead?.()
      return page
    }
  }
  const hub = new Hub('news', RULE, new Slow(redis.client(), keys))
  t.teardown(() => hub.close())
  let held: Buffer[] | undefined
  const bench: Bench = {
    publisher,
    hub,
    received: 0,
    delivered: [],
    command: (...args) => redis.command(...args),
    afterRead: undefined,
    hold: () => {
      held = []
      return () => {
        for (const message of held ?? []) hub.receive(message)
        held = undefined
      }
    }
  }
  hub.subscriptions.add({
    state: 'live',
    deliver: ({ offset }: MessageFrame) => bench.delivered.push(offset),
    tellGap: () => undefined
  } as never)
  const subscriber = redis.client()
  subscriber.on('messageBuffer', (_channel: Buffer, message: Buffer) => {
    if (held) held.push(message)
    else hub.receive(message)
    bench.received += 1
  })
  await subscriber.subscribe(keys.pubsub('news'))
  await hub.start()
  await hub.settled()
  return bench
}

test('a flood before a channel has started is delivered whole, though nothing follows it', async (t) => {
  const offsets: (string | undefined)[] = []
  const { delivered } = await setUp(t, async (bench) => {
    const publishing = Array.from({ length: 2500 }, (_none, n) => bench.publisher.publish('news', n))
    offsets.push(...(await Promise.all(publishing)).map(({ offset }) => offset))
    await until(() => bench.received === 2500)
  })
  await until(() => delivered.length >= 2500, { message: 'all of them arrive', timeout: 2000 }).catch(
    () => undefined
  )
  t.same(delivered, offsets)
})

test('messages that never came are read from history, and the repair is said', async (t) => {
  const repairs = listen(t, 'flotilla:ws:repair')
  const bench = await setUp(t, ({ publisher }) => publisher.publish('news', 'before'))
  await until(() => bench.delivered.length === 1)
  bench.hold()
  const offsets: (string | undefined)[] = [...bench.delivered]
  for (const text of ['lost', 'lost too']) offsets.push((await bench.publisher.publish('news', text)).offset)
  await until(() => bench.received === 3)
  // Holds anew, and so forgets what it held.
  bench.hold()()
  t.equal(bench.delivered.length, 1)
  offsets.push((await bench.publisher.publish('news', 'comes')).offset)
  await until(() => bench.delivered.length === 4)
  await bench.hub.settled()
  t.same(bench.delivered, offsets)
  t.same(repairs, [{ channel: 'news', messages: 3 }])
})

test('what a lost master had announced before a channel has started disturbs nothing', async (t) => {
  const offsets: (string | undefined)[] = []
  const { delivered } = await setUp(t, async (bench) => {
    await bench.command('PUBLISH', 'flotilla:ws:{news}', 'm 1700000000000-9 1700000000000-8 lost \n{}')
    for (const n of [1, 2, 3]) offsets.push((await bench.publisher.publish('news', n)).offset)
    await until(() => bench.received === 4)
  })
  t.same(delivered, offsets)
})

test('a client that resumes ahead of its instance misses nothing that arrives while it reads', async (t) => {
  const bench = await setUp(t, ({ publisher }) => publisher.publish('news', 'before'))
  const { hub, publisher } = bench
  const written: Buffer[] = []
  const outbox = new Outbox()
  const nothing = (): void => undefined
  const context = {
    outbox,
    highWaterMark: 1e6,
    rate: { perSecond: 1, burst: 1, bytesPerSecond: 1000, maxPayload: 1000 },
    onCommand: async () => undefined,
    onFrame: nothing,
    onDrained: nothing,
    onEnded: nothing
  }
  const transport = {
    kind: 'ws' as const,
    open: true,
    buffered: 0,
    write: (batch: Batch) => {
      written.push(...batch.frames().map(({ body }) => body))
      return true
    },
    onceDrained: () => undefined,
    ping: () => undefined,
    pause: () => undefined,
    resume: () => undefined,
    close: () => undefined,
    terminate: () => undefined
  }
  const subscription = new Subscription(new Connection(context, transport, undefined, {}), hub, true)
  hub.subscriptions.add(subscription)

  // The client has it from another instance; here it is still on its way.
  const release = bench.hold()
  const known = await publisher.publish('news', 'known')
  bench.afterRead = async () => {
    release()
    await publisher.publish('news', 'new')
    await until(() => bench.received === 3)
  }
  subscription.resumeAt(known as Position, [])
  await until(() => subscription.state === 'live')
  outbox.flush()
  t.same(
    written.map((body) => (JSON.parse(body.toString()) as { data: unknown }).data),
    ['new']
  )
})

test('a channel keeps its last messages for a while, and not for as long as it has members', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(flotillaRedis, { client: redis.client() })
  const keys = new ChannelKeys('flotilla:ws:', '')
  const reader = new HistoryReader(app.redis, keys)
  const hubs = new Hubs(app.redis, resolveSubscriber(app, app.redis), keys, reader, 5000, 50)
  t.teardown(() => hubs.close())
  const hub = await hubs.join('news', RULE)
  const publisher = createPublisher({
    redis: redis.client(),
    channels: { news: { history: { size: 5000 } } }
  })
  t.teardown(() => publisher.close())
  const positions: Position[] = []
  for (let n = 0; n < 3; n += 1) {
    const { epoch, offset } = await publisher.publish('news', n)
    positions.push({ epoch: epoch!, offset: offset! })
  }
  await until(() => samePosition(hub.position, positions[2]!))
  t.ok(hub.recent.after(positions[2]!), 'what has just come is there')
  await until(() => !hub.recent.after(positions[2]!), { message: 'it is let go of' })
  await publisher.publish('news', 3)
  await until(() => hub.recent.after(positions[2]!)?.length === 1, {
    message: 'the next one follows where it ended'
  })
  t.equal(hub.recent.after(positions[1]!), undefined)
})

test('of the last messages those that were there at two looks are let go of, in whatever way they came', (t) => {
  const recent = new RecentMessages()
  const message = (n: number): MessageFrame =>
    new MessageFrame({
      kind: 'm',
      epoch: 'e',
      offset: `${n}-0`,
      previous: `${n - 1}-0`,
      conflateKey: '',
      body: Buffer.from('x'.repeat(n === 400 ? 300_000 : 1000))
    })
  const after = (n: number): string[] | undefined =>
    recent.after({ epoch: 'e', offset: `${n}-0` })?.map(({ offset }) => offset)
  for (let n = 10; n < 300; n += 1) recent.push(message(n))
  recent.age()
  recent.push(message(300))
  recent.push(message(301))
  recent.age()
  t.same([after(298), after(299), after(300), after(301)], [undefined, ['300-0', '301-0'], ['301-0'], []])
  recent.prepend([message(298), message(299)], message(301))
  recent.age()
  t.same(after(297)?.length, 4)
  // One that is too long for the others to stay.
  recent.push(message(302))
  recent.push(message(400))
  recent.age()
  t.same([after(399), after(302)], [['400-0'], undefined])
  recent.age()
  t.same(after(399), undefined)
  t.end()
})
