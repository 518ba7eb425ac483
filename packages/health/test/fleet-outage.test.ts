import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import flotillaRedis from '@flotilla/redis'
import Fastify from 'fastify'
import { test } from 'tap'
import { until, type AppInstance } from '@flotilla/testbed'
import type { Check } from '../src/check.js'
import { CorrelationGuard } from '../src/correlation-guard.js'
import health from '../src/index.js'
import { heartbeat } from '../src/lua/heartbeat.js'
import { fleetOf, LEASE, server, startFleet, stateOf, states } from './fleet-of.js'

test('Redis away for everybody: no instance leaves rotation, all say degraded; back: healthy by themselves', async (t) => {
  const redis = await server(t, true)
  const fleet = await startFleet(t, redis, 3, { checks: { interval: 100, timeout: 200 } })
  const all = async (wanted: string): Promise<boolean> => {
    const now = await Promise.all(fleet.instances.map(stateOf))
    return now.every(({ state }) => state === wanted)
  }
  await until(() => all('ready'))
  const codes = new Set<number>()
  const done = new AbortController()
  const watch = (async () => {
    while (!done.signal.aborted) {
      for (const { url } of fleet.instances) {
        const answer = await fetch(`${url}/health`)
        await answer.text()
        codes.add(answer.status)
      }
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  })()
  await redis.kill()
  await until(() => all('degraded'), { message: 'all degraded' })
  const until2 = performance.now() + 2.5 * LEASE
  await until(() => performance.now() > until2, { timeout: 20_000 })
  t.ok(await all('degraded'))
  t.match(await fleetOf(fleet.instances[0]!), { stale: true })
  await redis.restart()
  await until(() => all('ready'), { timeout: 15_000, message: 'all healthy again' })
  await until(async () => (await fleetOf(fleet.instances[0]!)).instances.length === 3)
  done.abort()
  await watch
  t.strictSame([...codes], [200], 'every probe in all that time was 200')
})

test('a dependency that one instance alone cannot reach takes that one out, and only that one', async (t) => {
  const redis = await server(t)
  const fleet = await startFleet(t, redis, 3, {
    fleet: { lease: LEASE },
    checks: { failures: 1 }
  })
  const [one, two, three] = fleet.instances as [AppInstance, AppInstance, AppInstance]
  await until(async () => states(await fleetOf(one)) === 'ready,ready,ready')
  await one.call({ do: 'breakCheck', with: 'shared' })
  await until(async () => (await stateOf(one)).state === 'down', { timeout: 20_000, message: 'alone: out' })
  t.equal((await stateOf(two)).state, 'ready')
  await two.call({ do: 'breakCheck', with: 'shared' })
  await three.call({ do: 'breakCheck', with: 'shared' })
  await until(async () => (await stateOf(one)).state === 'degraded', { message: 'everywhere: degraded' })
  for (const app of fleet.instances) t.equal((await stateOf(app)).state, 'degraded')
  for (const app of fleet.instances) await app.call({ do: 'mendCheck', with: 'shared' })
  await until(async () => states(await fleetOf(one)) === 'ready,ready,ready')
})

test('instances that do not have a check are no evidence that it works', async (t) => {
  const redis = await server(t)
  const options = { fleet: { lease: LEASE }, checks: { failures: 1 } }
  const web = await startFleet(t, redis, 2, options)
  const mail = await startFleet(t, redis, 4, options, { env: { NO_CHECKS: '1' } })
  const [one, two] = web.instances as [AppInstance, AppInstance]
  await until(async () => (await fleetOf(mail.instances[0]!)).instances.length === 6)
  for (const app of web.instances) await app.call({ do: 'breakCheck', with: 'shared' })
  for (const app of web.instances) {
    await until(async () => (await stateOf(app)).state === 'degraded')
  }
  // A third that has it, and where it works, is what takes the others out: by then they had all the evidence there is.
  const third = await startFleet(t, redis, 1, options)
  await until(async () => (await fleetOf(one)).instances.length === 7)
  for (const app of web.instances)
    t.equal((await stateOf(app)).state, 'degraded', 'it fails in most of three')
  await one.call({ do: 'mendCheck', with: 'shared' })
  await until(async () => (await stateOf(two)).state === 'down', {
    timeout: 20_000,
    message: 'alone among those that have it: out'
  })
  t.equal((await stateOf(one)).state, 'ready')
  t.equal((await stateOf(third.instances[0]!)).state, 'ready')
})

test('an instance that was given up serves as all others when Redis goes before it is back', async (t) => {
  const redis = await server(t)
  const app = Fastify()
  await app.register(flotillaRedis, { url: redis.url, commandTimeout: 200 })
  await app.register(health, { drain: { signals: false }, fleet: { lease: LEASE } })
  t.teardown(() => app.close())
  await app.ready()
  await until(async () => (await app.health.fleet()).instances.length === 1)
  const onBeat = (message: unknown): void => {
    if ((message as { outcome: string }).outcome === 'fenced') redis.pause()
  }
  subscribe('flotilla:health:heartbeat', onBeat)
  t.teardown(() => {
    unsubscribe('flotilla:health:heartbeat', onBeat)
    redis.resume()
  })
  await app.redis.zadd('{flotilla:fleet:app}:evicted', Date.now(), app.health.id)
  await until(() => app.health.state === 'down', { message: 'it learns that it was given up' })
  await until(() => app.health.state === 'degraded', { message: 'and that nobody can give its lease back' })
  t.match(app.health.reasons.join(), /registry does not answer/)
  redis.resume()
  await until(() => app.health.state === 'ready')
})

test('who needs the longest to find Redis again after an outage is not given up by who was faster', async (t) => {
  const redis = await server(t)
  const client = redis.client()
  t.teardown(() => client.disconnect())
  const keys = ['leases', 'reports', 'evicted', 'meta'].map((name) => `{fleet}:${name}`)
  const beat = async (id: string): Promise<{ held: number; left: string[] }> => {
    const [held, , left] = await heartbeat.run(client, keys, [id, LEASE, '{}'])
    return { held: Number(held), left }
  }
  for (const id of ['fast', 'slow', 'dead']) t.same(await beat(id), { held: 1, left: [] })
  const silent = performance.now()
  await until(() => performance.now() - silent > LEASE + 100, { message: 'nobody beats for a whole lease' })
  const back = performance.now()
  const left: string[] = []
  // A client's longest pause between two attempts (1.1 s), and what may pass between two beats.
  await until(async () => {
    left.push(...(await beat('fast')).left)
    return performance.now() - back > 1_100 + 0.4 * LEASE
  })
  t.same(await beat('slow'), { held: 1, left: [] })
  t.same(left, [])
  await until(async () => left.push(...(await beat('fast')).left, ...(await beat('slow')).left) > 0)
  t.same(left, ['dead'], 'who stays away is')
})

test('Redis away during shutdown does not hold it up', async (t) => {
  const redis = await server(t)
  const fleet = await startFleet(t, redis, 1)
  const app = fleet.instances[0]!
  await until(async () => (await fleetOf(app)).instances.length === 1)
  redis.pause()
  t.teardown(() => redis.resume())
  const { exited } = app
  app.signal('SIGTERM')
  const began = performance.now()
  await until(() => !app.running)
  t.ok(performance.now() - began < 5000)
  t.equal((await exited).signal, null)
})

test('reports of before the failure are no evidence, however long they last', async (t) => {
  const HEARTBEAT = 400
  const guard = new CorrelationGuard(HEARTBEAT)
  const report = (): void => guard.report([{ id: 'other', failing: [], passing: ['shared'] }])
  const check = { name: 'shared', interval: 10, timeout: 10, askedAt: 0, changedAt: 0 }
  const alone = (): boolean => guard.alone(check as unknown as Check)
  report()
  check.askedAt = check.changedAt = performance.now()
  // The registry goes down together with the dependency: no more reports, until the last one is stale.
  const stale = performance.now() + 2.5 * HEARTBEAT
  await until(() => {
    check.askedAt = performance.now()
    if (alone()) t.fail(`alone by a report of ${stale - 2.5 * HEARTBEAT}, at ${check.askedAt}`)
    return performance.now() > stale
  })
  // It is back, and the others go on reporting that the check passes.
  await until(() => {
    report()
    check.askedAt = performance.now()
    return alone()
  })
  t.pass('the evidence came')
})
