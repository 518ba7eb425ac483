import { onEachTopology, until } from '@flotilla/testbed'
import type { Redis } from 'ioredis'
import { test, type Test } from 'tap'
import {
  defineScript,
  groupBySlot,
  hashTag,
  isCluster,
  publishTo,
  resolveSubscriber,
  runGrouped,
  slotOf,
  waitForReplicas,
  type RedisClient
} from '../src/index.js'
import { rejection, record, startApp, timed } from './fixtures/app.js'

const nodesOf = (client: RedisClient): Redis[] => (isCluster(client) ? client.nodes('master') : [client])
const append = defineScript<[string, number]>({
  name: 'append',
  keys: 1,
  lua: `local length = redis.call('APPEND', KEYS[1], ARGV[1]) return { redis.call('GET', KEYS[1]), length }`
})
const keys = Array.from({ length: 200 }, (_none, n) => `contract:${n}`)

void test('what every topology does alike', async (suite) => {
  await onEachTopology(suite, async (on: Test, { url, topology }) => {
    const bus = { probeInterval: 200, probeTimeout: 10_000 }
    const app = await startApp(on, { url, keyPrefix: 'app:', instance: 'one', bus })
    const other = await startApp(on, { url, keyPrefix: 'app:', instance: 'two', bus })
    const stranger = await startApp(on, { url, keyPrefix: 'else:', instance: 'three', bus })
    const subscriber = resolveSubscriber(app, app.redis)
    await app.ready()

    await on.test('the client', async (t: Test) => {
      t.equal(isCluster(app.redis), topology === 'cluster')
      t.equal(app.redis.options.enableAutoPipelining, true)
      await Promise.all(keys.map((key) => app.redis.set(key, key)))
      t.same(await Promise.all(keys.map((key) => other.redis.get(key))), keys)
      t.equal(await stranger.redis.get(keys[0]!), null, 'the prefix separates')
    })

    await on.test('scripts: EVALSHA, the text where it is not known, in pipelines too', async (t: Test) => {
      t.same(await append.run(app.redis, ['s:1'], ['a']), ['a', 1])
      t.same(await append.run(app.redis, ['s:1'], ['b']), ['ab', 2])
      t.same(await append.runBuffer(app.redis, ['s:2'], [Buffer.from([0xff])]), [Buffer.from([0xff]), 1])
      const nodes = nodesOf(app.redis)
      await Promise.all(nodes.map((node) => node.script('FLUSH')))
      t.same(await append.run(app.redis, ['s:1'], ['c']), ['abc', 3])

      const pipeline = app.redis.pipeline()
      append.queue(pipeline, ['{p}:1'], ['x'])
      pipeline.get('{p}:1')
      append.queue(pipeline, ['{p}:1'], ['y'])
      t.same(await pipeline.exec(), [
        [null, ['x', 1]],
        [null, 'x'],
        [null, ['xy', 2]]
      ])

      await Promise.all(nodes.map((node) => node.script('FLUSH')))
      const flushed = app.redis.pipeline()
      append.queue(flushed, ['{p}:1'], ['z'])
      flushed.strlen('{p}:2')
      t.same(await flushed.exec(), [
        [null, ['xyz', 3]],
        [null, 0]
      ])

      const transaction = app.redis.multi()
      append.queue(transaction, ['{p}:3'], ['m'])
      t.same(await transaction.exec(), [[null, ['m', 1]]])
      t.equal((await rejection(append.run(app.redis, ['a', 'b']))).code, 'FLOTILLA_REDIS_ERR_KEYS')
    })

    await on.test('many keys: one pipeline a node, replies in order', async (t: Test) => {
      t.same(await runGrouped(app.redis, keys, (pipeline, key) => pipeline.get(key)), keys)
      t.same(
        await runGrouped(app.redis, keys.slice(0, 2), (pipeline, key) => pipeline.strlen(key).exists(key)),
        keys.slice(0, 2).map((key) => [key.length, 1])
      )
      const error = await rejection(runGrouped(app.redis, keys, (pipeline, key) => pipeline.lpush(key, 'x')))
      t.match(error.message, /WRONGTYPE/)
      t.same(await runGrouped(app.redis, [], (pipeline, key) => pipeline.get(key)), [])
    })

    await on.test('slots and hash tags', async (t: Test) => {
      t.equal(hashTag('42', 'cart', 7), '{42}:cart:7')
      t.equal(slotOf(hashTag('42', 'a')), slotOf(hashTag('42', 'b')))
      t.throws(() => hashTag('a}b'), { code: 'FLOTILLA_REDIS_ERR_KEYS' })
      t.throws(() => hashTag(''), { code: 'FLOTILLA_REDIS_ERR_KEYS' })
      const groups = groupBySlot(['{a}1', '{b}1', '{a}2'], (key) => key)
      t.same([...groups.values()], [['{a}1', '{a}2'], ['{b}1']])
    })

    await on.test('the subscriber: acknowledged, counted, sharded or not', async (t: Test) => {
      for (const sharded of [false, true]) {
        const heard: string[] = []
        const listen = (message: Buffer, channel: string): void =>
          void heard.push(`${channel}=${message.toString()}`)
        const first = await subscriber.subscribe('ch:1', listen, { sharded })
        const second = await subscriber.subscribe('ch:1', listen, { sharded })
        await publishTo(other.redis, 'ch:1', 'a', { sharded })
        await publishTo(stranger.redis, 'ch:1', 'not for us', { sharded })
        await until(() => heard.length === 2)
        first()
        first()
        await publishTo(other.redis, 'ch:1', 'b', { sharded })
        await until(() => heard.length === 3)
        second()
        await until(
          async () => (await publishTo(other.redis, 'ch:1', 'c', { sharded })) === 0 || !isCluster(app.redis)
        )
        t.same(heard, ['ch:1=a', 'ch:1=a', 'ch:1=b'])
      }
      const wire = 'ch:many'
      const channels = Array.from({ length: 600 }, (_none, n) => `${wire}:${n}`)
      let count = 0
      const ends = await Promise.all(
        channels.map((channel) => subscriber.subscribe(channel, () => count++, { sharded: true }))
      )
      await Promise.all(channels.map((channel) => publishTo(other.redis, channel, '.', { sharded: true })))
      await until(() => count === channels.length)
      for (const end of ends) end()
    })

    await on.test(
      'the bus: everybody of the fleet hears, the sender too, and nobody else',
      async (t: Test) => {
        const all = [record(app.bus), record(other.bus), record(stranger.bus)]
        const from: string[] = []
        app.bus.subscribe('news', (_payload, meta) => from.push(meta.from))
        await Promise.all([app.bus.ready(), other.bus.ready(), stranger.bus.ready()])
        await other.bus.publish('news', { n: 1 })
        await app.bus.publish('news', 2)
        await stranger.bus.publish('news', 3)
        await until(() => all.every((heard) => heard.length > 0) && from.length === 2)
        // The nodes of a Cluster pass messages on to each other, in no order.
        if (topology === 'cluster') {
          for (const heard of all)
            heard.sort((a, b) => Number(typeof b === 'object') - Number(typeof a === 'object'))
          from.sort().reverse()
        }
        t.same(all, [[{ n: 1 }, 2], [{ n: 1 }, 2], [3]])
        t.same(from, ['two', 'one'])
        await until(() => app.bus.status().lastProbeAt !== undefined, { message: 'the probe comes back' })
        t.match(app.bus.status(), { active: true, connected: true, gaps: 0 })
        const loop: { self?: unknown } = {}
        loop.self = loop
        t.equal((await rejection(app.bus.publish('news', loop))).code, 'FLOTILLA_REDIS_ERR_PUBLISH')
      }
    )

    await on.test('replicas confirm a write without holding up the shared connection', async (t: Test) => {
      await app.redis.set('d', 1)
      const replicas = { single: 0, sentinel: 2, cluster: 1 }[topology]
      if (replicas > 0) {
        // The last of them may still be taking its first copy.
        const waiting = Array.from({ length: 20 }, () =>
          waitForReplicas(app.redis, { key: 'd', replicas, timeout: '10s' })
        )
        await Promise.all(waiting)
      }
      const tooMany = rejection(waitForReplicas(app.redis, { key: 'd', replicas: 9, timeout: 400 }))
      const { ms } = await timed(() => app.redis.get('d'))
      t.ok(ms < 350, `a command beside it took ${ms} ms`)
      const error = await tooMany
      t.equal(error.code, 'FLOTILLA_REDIS_ERR_NOT_DURABLE')
      t.match(error.message, `${replicas} of 9`)
      const wrong = await rejection(waitForReplicas(app.redis, { key: 'd', replicas: 0, timeout: 100 }))
      t.equal(wrong.code, 'FLOTILLA_REDIS_ERR_OPTIONS')
    })

    const { ms } = await timed(() => app.close())
    on.ok(ms < 1_000, `closing took ${ms} ms`)
    const closed = await rejection(subscriber.subscribe('late', () => {}))
    on.equal(closed.code, 'FLOTILLA_REDIS_ERR_CLOSED')
  })
})
