import { onEachTopology, until } from '@flotilla/testbed'
import { Cluster, Redis } from 'ioredis-5'
import { test, type Test } from 'tap'
import {
  defineScript,
  isCluster,
  publishTo,
  resolveSubscriber,
  runGrouped,
  waitForReplicas,
  type RedisClient
} from '../src/index.js'
import { parseRedisUrl } from '../src/topology.js'
import { record, startApp } from './fixtures/app.js'

const keys = Array.from({ length: 50 }, (_none, n) => `five:${n}`)
const echo = defineScript<[string, string]>({ name: 'echo', keys: 1, lua: `return { KEYS[1], ARGV[1] }` })

/** A client of the other major version, as a user has it. */
function connectFive(url: string): Redis | Cluster {
  const { topology, nodes, master, password } = parseRedisUrl(url)
  const auth = password === undefined ? {} : { password }
  const options = { enableAutoPipelining: true, keyPrefix: 'v5:', ...auth }
  if (topology === 'cluster') return new Cluster([...nodes], { ...options, redisOptions: auth })
  if (topology === 'single') return new Redis({ ...nodes[0], ...options })
  return new Redis({ sentinels: [...nodes], name: master!, ...options })
}

void test('a client of ioredis 5 serves as well', async (suite) => {
  await onEachTopology(suite, async (t: Test, { url, topology, redis }) => {
    const five = connectFive(url)
    t.teardown(() => five.disconnect())
    const client = five as unknown as RedisClient
    const app = await startApp(t, { client, bus: { probeInterval: 200, probeTimeout: 500 } })
    const subscriber = resolveSubscriber(app, client)
    await app.ready()
    t.equal(isCluster(client), topology === 'cluster')

    t.same(
      await Promise.all(keys.map((key) => echo.run(client, [key], ['x']))),
      keys.map((key) => [`v5:${key}`, 'x'])
    )
    await runGrouped(client, keys, (pipeline, key) => pipeline.set(key, key))
    t.same(await runGrouped(client, keys, (pipeline, key) => pipeline.get(key)), keys)
    const pipeline = client.pipeline()
    echo.queue(pipeline, ['a'], ['1'])
    echo.queue(pipeline, ['a'], ['2'])
    t.same(await pipeline.exec(), [
      [null, ['v5:a', '1']],
      [null, ['v5:a', '2']]
    ])

    const heard: string[] = []
    const gaps: boolean[] = []
    subscriber.onGap(({ channels, recovered }) => void (channels.includes('room') && gaps.push(recovered)))
    await subscriber.subscribe('room', (message) => heard.push(message.toString()), { sharded: true })
    await publishTo(client, 'room', 'sharded', { sharded: true })
    await until(() => heard.includes('sharded'))
    const news = record(app.bus)
    await app.bus.ready()
    await app.bus.publish('news', 1)
    await until(() => news.includes(1))
    if (topology !== 'single') {
      await client.set('d', 1)
      await waitForReplicas(client, { key: 'd', replicas: 1, timeout: '3s' })
    }
    if (topology === 'cluster') {
      await redis.migrateSlot('v5:room')
      await until(() => gaps.at(-1), { message: 'the shard channel has followed its slot' })
      await until(async () => {
        await publishTo(client, 'room', 'moved', { sharded: true })
        return heard.includes('moved')
      })
    }
  })
})
