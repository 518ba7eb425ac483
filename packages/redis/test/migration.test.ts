import { startCluster, until } from '@flotilla/testbed'
import { test } from 'tap'
import {
  defineScript,
  publishTo,
  resolveSubscriber,
  runGrouped,
  slotOf,
  waitForReplicas
} from '../src/index.js'
import { startApp } from './fixtures/app.js'
import { startTraffic } from './fixtures/traffic.js'

const push = defineScript<number>({
  name: 'push',
  keys: 1,
  lua: `return redis.call('RPUSH', KEYS[1], ARGV[1])`
})

void test('a slot moves under traffic: nobody sees a redirection, the shard channel follows', async (t) => {
  const cluster = await startCluster()
  t.teardown(() => cluster.stop())
  const app = await startApp(t, { url: cluster.url, commandTimeout: '10s' })
  const other = await startApp(t, { url: cluster.url, commandTimeout: '10s' })
  const subscriber = resolveSubscriber(app, app.redis)
  await app.ready()

  // Half of the keys live in the slot that moves, half on all nodes, so that pipelines mix both.
  const moving = Array.from({ length: 40 }, (_none, n) => `{moving}:${n}`)
  const resting = Array.from({ length: 40 }, (_none, n) => `resting:${n}`)
  const keys = moving.flatMap((key, n) => [key, resting[n]!])
  await runGrouped(app.redis, keys, (pipeline, key) => pipeline.set(key, '0'))
  const heard: string[] = []
  const gaps: boolean[] = []
  await subscriber.subscribe('{moving}:room', (message) => heard.push(message.toString()), { sharded: true })
  await subscriber.subscribe('other room', () => {}, { sharded: true })
  subscriber.onGap(({ channels, recovered }) => {
    if (channels.includes('{moving}:room')) gaps.push(recovered)
  })

  const counts = new Map<string, number>()
  const bump = async (key: string): Promise<void> => {
    await app.redis.incr(key)
    counts.set(key, (counts.get(key) ?? 0) + 1)
  }
  const traffic = [
    startTraffic((n) => Promise.all(keys.filter((_key, k) => k % 8 === n % 8).map(bump))),
    startTraffic((n) => push.run(app.redis, ['{moving}:list'], [n])),
    startTraffic(() => runGrouped(app.redis, keys, (pipeline, key) => pipeline.get(key)), 25),
    startTraffic(() => waitForReplicas(app.redis, { key: '{moving}:0', replicas: 1, timeout: 10_000 }), 50)
  ]
  const enough = async (): Promise<void> => {
    const goals = traffic.map(({ succeeded }) => succeeded + 8)
    await until(() =>
      traffic.every(({ succeeded, errors }, n) => succeeded >= goals[n]! || errors.length > 0)
    )
  }
  await enough()
  await cluster.migrateSlot('{moving}', { midway: enough })
  await until(() => gaps.at(-1) === true, { message: 'the shard channel is subscribed at its new node' })
  await enough()
  await Promise.all(traffic.map((one) => one.stop()))
  t.same(
    traffic.map(({ errors }) => errors.map(({ message }) => message)),
    [[], [], [], []]
  )
  t.same(gaps, [false, true])
  await publishTo(other.redis, '{moving}:room', 'after', { sharded: true })
  await until(() => heard.includes('after'))
  const stored = await runGrouped<string>(app.redis, keys, (pipeline, key) => pipeline.get(key))
  t.same(
    stored.map(Number),
    keys.map((key) => counts.get(key) ?? 0),
    'every increment was carried out once'
  )
})

void test('a pipeline that is repeated since the Cluster was down follows a slot that moves meanwhile', async (t) => {
  const cluster = await startCluster({ replicas: 0, args: ['--cluster-allow-reads-when-down', 'yes'] })
  t.teardown(() => cluster.stop())
  const node = await cluster.masterOf('read')
  const names = Array.from({ length: 100 }, (_none, n) => `written:${n}`)
  const owners = await Promise.all(names.map((name) => cluster.masterOf(name)))
  const [written, other] = names.filter((_name, n) => owners[n] === node)
  const app = await startApp(t, {
    url: cluster.url,
    commandTimeout: '30s',
    retryDelayOnClusterDown: 3_000,
    slotsRefreshInterval: 0
  })
  await app.redis.set('read', 'kept')
  const refusals = async (): Promise<boolean> => 'errorstat_CLUSTERDOWN' in (await node.info('errorstats'))
  const stateIs = (state: string): Promise<unknown> =>
    until(async () => String(await node.command('CLUSTER', 'INFO')).includes(`cluster_state:${state}`))

  // A slot without an owner: reads are answered, writes are not, and ioredis repeats the whole pipeline later.
  await node.command('CLUSTER', 'DELSLOTS', slotOf(other!))
  await stateIs('fail')
  const results = app.redis.pipeline().get('read').set(written!, 'now').exec()
  await until(refusals, { message: 'the first attempt was refused' })
  await node.command('CLUSTER', 'ADDSLOTS', slotOf(other!))
  await stateIs('ok')
  // The slot map is read again before the repetition; it does not tell of a slot that is on its way.
  const migration = await cluster.beginMigration('read')
  await migration.moveKeys(1)
  t.same(await results, [
    [null, 'kept'],
    [null, 'OK']
  ])
})
