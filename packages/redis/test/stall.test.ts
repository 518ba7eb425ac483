import { startCluster, startProxy, startRedis, startSentinel, until } from '@flotilla/testbed'
import { test } from 'tap'
import { rejection, record, startApp, timed } from './fixtures/app.js'
import { startTraffic } from './fixtures/traffic.js'

const commandTimeout = 400
const bus = { probeInterval: 200, probeTimeout: 500 }
/** One pipeline may be under way when a command is issued, and each takes as long as the timeout at most. */
const bound = 2 * commandTimeout + 1_000

void test('SIGSTOP: commands fail in time and then at once, nothing is carried out late, close ends', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url, commandTimeout, bus })
  const closing = await startApp(t, { url: server.url, commandTimeout, bus })
  const prompt = await startApp(t, { url: server.url, commandTimeout, bus })
  await Promise.all([app.ready(), closing.ready(), prompt.ready()])
  const heard = record(app.bus)
  record(closing.bus)
  await Promise.all([app.bus.ready(), closing.bus.ready()])
  await app.redis.set('k', 'before')

  server.pause()
  const { ms: early } = await timed(() => prompt.close())
  t.ok(early < commandTimeout + 1_000, `closing before anybody knew took ${early} ms`)
  const { ms: first, result } = await timed(() => rejection(app.redis.get('k')))
  t.match(result.message, /timed out/)
  t.ok(first < bound, `the first command took ${first} ms`)
  const { ms: publish, result: refused } = await timed(() => rejection(app.bus.publish('news', 'lost')))
  t.equal(refused.code, 'FLOTILLA_REDIS_ERR_PUBLISH')
  t.ok(publish < bound, `publishing took ${publish} ms`)
  // Once the connection has been given up, nothing waits, and nothing piles up.
  await until(
    async () => (await rejection(app.redis.set('k', 'while away'))).code === 'FLOTILLA_REDIS_ERR_UNAVAILABLE'
  )
  const { ms: fast } = await timed(() =>
    Promise.allSettled(Array.from({ length: 1_000 }, () => app.redis.set('k', 'while away')))
  )
  t.ok(fast < 4 * commandTimeout, `a thousand refusals took ${fast} ms`)
  await until(() => !app.bus.status().connected)
  const { ms: close } = await timed(() => closing.close())
  t.ok(close < commandTimeout + 600, `closing took ${close} ms`)

  server.resume()
  await until(() => app.redis.get('k').then((value) => value === 'before' || value === 'while away'))
  await until(() => app.bus.status().connected)
  await until(async () => {
    await app.bus.publish('news', 'after')
    return heard.includes('after')
  })
})

void test('DEBUG SLEEP: the server is back before anybody had to be told', async (t) => {
  const server = await startRedis({ args: ['--enable-debug-command', 'yes'] })
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url, commandTimeout, bus })
  await app.ready()
  const heard = record(app.bus)
  await app.bus.ready()
  const traffic = startTraffic((n) => app.redis.set('k', n))
  await until(() => traffic.succeeded > 10)
  await server.command('DEBUG', 'SLEEP', '2')
  const before = traffic.succeeded
  await until(() => traffic.succeeded > before + 20)
  await traffic.stop()
  t.ok(traffic.errors.length > 0)
  t.ok(traffic.slowest < bound, `the slowest command took ${traffic.slowest} ms`)
  await until(async () => {
    await app.bus.publish('news', 'after')
    return heard.includes('after')
  })
})

void test('a blackholed connection is given up and made anew, whatever TCP says', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const proxy = await startProxy(server)
  t.teardown(() => proxy.stop())
  const app = await startApp(t, {
    url: proxy.through(server.url),
    commandTimeout,
    bus,
    connectTimeout: 2_000
  })
  const closing = await startApp(t, { url: proxy.through(server.url), commandTimeout, bus })
  await app.ready()
  const heard = record(app.bus)
  record(closing.bus)
  await Promise.all([app.bus.ready(), closing.bus.ready()])
  const traffic = startTraffic((n) => app.redis.set('k', n))
  await until(() => traffic.succeeded > 10)
  proxy.blackhole()
  await until(() => traffic.errors.some((error) => 'code' in error), {
    message: 'commands are refused at once'
  })
  const { ms } = await timed(() => closing.close())
  t.ok(ms < commandTimeout + 1_000, `closing took ${ms} ms`)
  const before = traffic.succeeded
  await proxy.restore()
  await until(() => traffic.succeeded > before + 20)
  await traffic.stop()
  t.ok(traffic.slowest < bound, `the slowest command took ${traffic.slowest} ms`)
  // What the network held back arrives: only if it took longer, or the connection was lost, is there a gap.
  await until(async () => {
    await app.bus.publish('news', 'after')
    return heard.includes('after')
  })
  // A cut is over in a moment: commands wait for it.
  const cut = startTraffic((n) => app.redis.set('k', n))
  proxy.cut()
  await until(() => cut.succeeded > 20)
  await cut.stop()
  t.same(cut.errors, [])
})

void test('Sentinel: a paused master is replaced; awake again it takes no writes of ours', async (t) => {
  const group = await startSentinel()
  t.teardown(() => group.stop())
  const app = await startApp(t, { url: group.url, commandTimeout, bus })
  await app.ready()
  const heard = record(app.bus)
  await app.bus.ready()
  const traffic = startTraffic((n) => app.redis.set('k', n))
  await until(() => traffic.succeeded > 10)
  const old = await group.master()
  old.pause()
  await group.waitForFailover(old)
  const before = traffic.succeeded
  await until(() => traffic.succeeded > before + 20)
  old.resume()
  await until(() => heard.includes('recovered'))
  await until(async () => (await old.info('replication'))['role'] === 'slave')
  await traffic.stop()
  t.ok(traffic.slowest < bound, `the slowest command took ${traffic.slowest} ms`)
  await app.redis.set('last', 1)
  const master = await group.master()
  t.not(master.port, old.port)
  t.equal(await master.command('GET', 'last'), '1')
})

void test('Cluster: a paused master holds up only its own slots, until it is replaced', async (t) => {
  const cluster = await startCluster()
  t.teardown(() => cluster.stop())
  const app = await startApp(t, { url: cluster.url, commandTimeout, bus })
  await app.ready()
  const heard = record(app.bus)
  await app.bus.ready()
  const old = await cluster.masterOf('k')
  const elsewhere = await until(async () => {
    const key = `k${Math.random()}`
    return (await cluster.masterOf(key)) !== old && key
  })
  old.pause()
  const there = startTraffic((n) => app.redis.set(elsewhere, n))
  const here = startTraffic((n) => app.redis.set('k', n))
  await until(() => here.errors.length > 0)
  const before = here.succeeded
  await until(() => here.succeeded > before + 20, { timeout: 20_000 })
  old.resume()
  await Promise.all([there.stop(), here.stop()])
  t.ok(here.slowest < bound, `the slowest command took ${here.slowest} ms`)
  t.ok(there.succeeded > 20)
  await until(async () => {
    await app.bus.publish('news', 'after')
    return heard.includes('after')
  })
  const { ms } = await timed(() => app.close())
  t.ok(ms < commandTimeout + 1_000, `closing took ${ms} ms`)
})
