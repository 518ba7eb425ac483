import { test } from 'tap'
import { until, type AppInstance } from '@flotilla/testbed'
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
  const fleet = await startFleet(t, redis, 3, { fleet: { lease: 600 }, checks: { failures: 1, timeout: 50 } })
  const [one, two, three] = fleet.instances as [AppInstance, AppInstance, AppInstance]
  await until(async () => states(await fleetOf(one)) === 'ready,ready,ready')
  await one.call({ do: 'breakCheck', with: 'shared' })
  await until(async () => (await stateOf(one)).state === 'down', { message: 'alone: out' })
  t.equal((await stateOf(two)).state, 'ready')
  await two.call({ do: 'breakCheck', with: 'shared' })
  await three.call({ do: 'breakCheck', with: 'shared' })
  await until(async () => (await stateOf(one)).state === 'degraded', { message: 'everywhere: degraded' })
  for (const app of fleet.instances) t.equal((await stateOf(app)).state, 'degraded')
  for (const app of fleet.instances) await app.call({ do: 'mendCheck', with: 'shared' })
  await until(async () => states(await fleetOf(one)) === 'ready,ready,ready')
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
