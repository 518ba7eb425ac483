import { startCluster, startRedis, startSentinel, until } from '@flotilla/testbed'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { test } from 'tap'
import redis, {
  checkRedis,
  defineScript,
  publishTo,
  resolveSubscriber,
  runGrouped,
  waitForReplicas
} from '../src/index.js'
import { record, rejection, startApp, timed } from './fixtures/app.js'
import { startTraffic } from './fixtures/traffic.js'

const commandTimeout = 500
const bus = { probeInterval: 200, probeTimeout: 500 }
const increment = defineScript<number>({
  name: 'increment',
  keys: 1,
  lua: `return redis.call('INCR', KEYS[1])`
})

void test('Sentinel: the master dies, commands end in bounded time, the client and the bus come back', async (t) => {
  const group = await startSentinel()
  t.teardown(() => group.stop())
  const app = await startApp(t, { url: group.url, commandTimeout, bus })
  const other = await startApp(t, { url: group.url, commandTimeout, bus })
  await app.ready()
  const heard = record(app.bus)
  await app.bus.ready()
  const traffic = startTraffic((n) => (n % 2 ? app.redis.set('k', n) : increment.run(app.redis, ['i'])))

  const old = await group.master()
  await until(() => traffic.succeeded > 20)
  await old.kill()
  await until(() => traffic.errors.length > 0)
  const before = traffic.succeeded
  await until(() => traffic.succeeded > before + 20, { timeout: 15_000, message: 'commands succeed again' })
  await until(() => heard.includes('recovered'), { message: 'the bus announces the end of the gap' })
  await until(async () => {
    await other.bus.publish('news', 'after')
    return heard.includes('after')
  })
  await traffic.stop()
  t.match(heard.slice(0, 2), ['lost', 'recovered'])
  t.ok(traffic.slowest < 2 * commandTimeout + 1_000, `the slowest command took ${traffic.slowest} ms`)
  t.ok(app.bus.status().connected)
})

for (const stays of [false, true]) {
  const whose = stays ? 'with a replica that stayed with it' : 'that its replicas have left'
  void test(`Sentinel: a write that an old master took, ${whose}, is not called durable`, async (t) => {
    const group = await startSentinel({ replicas: 1 })
    t.teardown(() => group.stop())
    const old = await group.master()
    if (stays) await group.startStray(old)
    const app = await startApp(t, { url: group.url, commandTimeout: '2s', bus: { probeInterval: '60s' } })
    await app.ready()
    await app.redis.set('k', 'before')
    if (stays) await waitForReplicas(app.redis, { key: 'k', replicas: 2, timeout: '2s' })

    old.pause()
    await group.waitForFailover(old)
    old.resume()
    await app.redis.set('k', 'late')
    t.equal(await old.command('GET', 'k'), 'late', 'the old master still takes writes')
    await t.rejects(waitForReplicas(app.redis, { key: 'k', replicas: 1, timeout: '1s' }), {
      code: 'FLOTILLA_REDIS_ERR_NOT_DURABLE'
    })

    await until(async () => (await old.info('replication'))['role'] === 'slave')
    const durably = async (): Promise<boolean> => {
      await app.redis.set('k', 'after')
      await waitForReplicas(app.redis, { key: 'k', replicas: 1, timeout: '1s' })
      return true
    }
    // Until the Sentinels have ended the failover, the new master is refused as well.
    await until(() => durably().catch(() => false), { timeout: 20_000 })
    const master = await group.master()
    t.not(master, old)
    t.equal(await master.command('GET', 'k'), 'after')
  })
}

void test('Sentinel: one that does not answer, or knows an older master, has no say in what is durable', async (t) => {
  const group = await startSentinel({ replicas: 1 })
  t.teardown(() => group.stop())
  const old = await group.master()
  await group.failover()
  await group.waitForAgreement()
  // Of another configuration, and older: as one that was cut off from the others through the failover.
  const foreign = await startRedis()
  t.teardown(() => foreign.stop())
  const behind = await startRedis({
    sentinel: () => `sentinel monitor ${group.name} ${foreign.host} ${foreign.port} 1\n`
  })
  t.teardown(() => behind.stop())
  const url = group.url.replace(/\/[^/]*$/, `,${behind.host}:${behind.port}/${group.name}`)
  const app = await startApp(t, { url, commandTimeout: '2s', bus: { probeInterval: '60s' } })
  await app.ready()
  const durably = async (): Promise<void> => {
    await app.redis.set('k', 1)
    await waitForReplicas(app.redis, { key: 'k', replicas: 1, timeout: '10s' })
  }
  await durably()
  for (const sentinel of group.sentinels.slice(1)) sentinel.pause()
  await durably()
  for (const sentinel of group.sentinels.slice(1)) sentinel.resume()
  t.not(await group.master(), old)

  const unconnected = app.redis.duplicate({ lazyConnect: true })
  await t.rejects(waitForReplicas(unconnected, { key: 'k', replicas: 1, timeout: '10s' }), {
    code: 'FLOTILLA_REDIS_ERR_NOT_DURABLE',
    message: /is gone/
  })
})

void test('Cluster: a master dies, its slots and shard channels move to the replica', async (t) => {
  const cluster = await startCluster()
  t.teardown(() => cluster.stop())
  const app = await startApp(t, { url: cluster.url, commandTimeout, bus })
  const other = await startApp(t, { url: cluster.url, commandTimeout, bus })
  const subscriber = resolveSubscriber(app, app.redis)
  await app.ready()
  const heard: string[] = []
  const gaps: string[] = []
  await subscriber.subscribe('room', (message) => heard.push(message.toString()), { sharded: true })
  subscriber.onGap(({ channels, recovered }) => {
    if (channels.includes('room')) gaps.push(recovered ? 'recovered' : 'lost')
  })
  const news = record(app.bus)
  await Promise.all([app.bus.ready(), other.bus.ready()])
  const keys = Array.from({ length: 30 }, (_none, n) => `key:${n}`)
  const traffic = startTraffic((n) => increment.run(app.redis, [keys[n % keys.length]!]))

  const old = await cluster.masterOf('room')
  await until(() => traffic.succeeded > 30)
  await old.kill()
  await until(() => gaps.includes('lost'), { message: 'the loss is announced' })
  await cluster.waitForFailover(old)
  await until(() => gaps.includes('recovered'), { message: 'the shard channel is back' })
  await publishTo(other.redis, 'room', 'after', { sharded: true })
  await until(() => heard.includes('after'))
  await until(
    async () =>
      (await runGrouped(app.redis, keys, (pipeline, key) => pipeline.get(key))).length === keys.length
  )
  await until(async () => {
    await other.bus.publish('news', 'after')
    return news.includes('after')
  })
  await traffic.stop()
  // ioredis tries again for as long as a failover lasts; the timeout ends that.
  t.ok(traffic.slowest < 2 * commandTimeout + 1_000, `the slowest command took ${traffic.slowest} ms`)
  const { ms } = await timed(() => app.close())
  t.ok(ms < commandTimeout + 1_000, `closing took ${ms} ms`)
})

void test('Cluster: with a part of its slots served by nobody it is down, though its nodes answer', async (t) => {
  const cluster = await startCluster({ replicas: 0 })
  t.teardown(() => cluster.stop())
  const app = await startApp(t, { url: cluster.url })
  await checkRedis(app.redis)
  const victim = await cluster.masterOf('k')
  await victim.kill()
  const error = await until(() =>
    checkRedis(app.redis).then(
      () => undefined,
      (reason: Error) => reason.message.startsWith('CLUSTERDOWN') && reason
    )
  )
  t.match(error, { message: /state of the Cluster is 'fail'/ })
  await victim.restart()
  await until(() => checkRedis(app.redis).then(() => true), { timeout: 20_000 })
})

void test('Cluster: a user who may not ask for its state is asked for an answer instead', async (t) => {
  const cluster = await startCluster({ replicas: 0 })
  t.teardown(() => cluster.stop())
  const app = await startApp(t, { url: cluster.url })
  for (const node of cluster.nodes) await node.command('ACL', 'SETUSER', 'default', '-cluster|info')
  t.match(await rejection(app.redis.cluster('INFO')), { message: /NOPERM/ })
  await checkRedis(app.redis)
})

void test('two Redis of one app are two checks each', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = Fastify()
  t.teardown(() => app.close())
  const names: string[] = []
  const add = (name: string): void => void names.push(name)
  app.decorate('health', { state: 'ready', addCheck: add, onDrain: add })
  for (const keyPrefix of ['a:', 'b:']) {
    await app.register(async (scope) => {
      await scope.register(redis, { url: server.url, keyPrefix })
    })
  }
  await app.ready()
  t.same(names.sort(), ['bus', 'bus-2', 'leases', 'leases-2', 'redis', 'redis-2'])
})

void test('Sentinel: the first one hangs, and the subscriber finds the master through another', async (t) => {
  const group = await startSentinel({ replicas: 1 })
  t.teardown(() => group.stop())
  const sentinels = group.sentinels.map(({ host, port }) => ({ host, port }))
  const { password } = new URL(group.servers[0]!.url)
  const client = new Redis({
    sentinels,
    name: 'mymaster',
    password: decodeURIComponent(password),
    updateSentinels: false,
    commandTimeout: 1_000
  })
  t.teardown(() => client.disconnect())
  const app = await startApp(t, { client })
  await app.ready()
  const heard = record(app.bus)
  await app.bus.ready()
  await client.set('k', 1)
  const master = await group.master()
  group.sentinels[0]!.pause()
  t.teardown(() => group.sentinels[0]!.resume())
  await master.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(() => heard.includes('recovered'))
  await waitForReplicas(client, { key: 'k', replicas: 1, timeout: '5s' })
})

void test('a user who may use the keys under the prefix only can wait for replicas', async (t) => {
  const server = await startRedis()
  const replica = await startRedis({ args: ['--replicaof', server.host, String(server.port)] })
  t.teardown(() => Promise.all([server.stop(), replica.stop()]))
  await server.command('ACL', 'SETUSER', 'shop', 'on', '>pw', '~shop:*', '&*', '+@all')
  const url = `redis://shop:pw@${server.host}:${server.port}`
  const app = await startApp(t, { url, keyPrefix: 'shop:' })
  await app.redis.set('k', 1)
  await waitForReplicas(app.redis, { key: 'k', replicas: 1, timeout: '10s' })
  t.pass()

  const cluster = await startCluster({ masters: 3, replicas: 1 })
  t.teardown(() => cluster.stop())
  for (const node of cluster.nodes) {
    await node.command('ACL', 'SETUSER', 'default', 'resetkeys', '~shop:*', '~{shop}*')
  }
  for (const keyPrefix of ['shop:', '{shop}:']) {
    const { redis: client } = await startApp(t, { url: cluster.url, keyPrefix })
    await client.set('k', 1)
    await waitForReplicas(client, { key: 'k', replicas: 1, timeout: '10s' })
  }
})
