import { test } from 'tap'
import { until, type AppInstance } from '@flotilla/testbed'
import { fleetOf, LEASE, server, startFleet, stateOf } from './fleet-of.js'

/* A dependency comes back, and the instances learn of it at different times. */

const everywhere = async (instances: readonly AppInstance[], wanted: string): Promise<boolean> =>
  (await Promise.all(instances.map(stateOf))).every(({ state }) => state === wanted)

test('an instance that asked a dependency last during its outage stays in rotation', async (t) => {
  const redis = await server(t)
  const interval = 2_000
  const checks = { failures: 1, timeout: 200 }
  const env = { CHECK_INTERVAL: String(interval) }
  const { instances } = await startFleet(t, redis, 3, { fleet: { lease: LEASE }, checks }, { env })
  const [one, ...others] = instances as [AppInstance, AppInstance, AppInstance]
  await until(() => everywhere(instances, 'ready'), { timeout: 60_000 })
  for (const app of instances) await app.call({ do: 'breakCheck', with: 'shared' })
  await until(() => everywhere(instances, 'degraded'), { timeout: 60_000, message: 'it fails everywhere' })
  const long = performance.now() + 2 * interval + checks.timeout + LEASE
  await until(() => performance.now() > long, { message: 'each would have noticed that it passes elsewhere' })
  for (const app of others) await app.call({ do: 'mendCheck', with: 'shared' })
  const passing = async (): Promise<number> =>
    (await fleetOf(one)).instances.filter((app) => app.passing.includes('shared')).length
  await until(async () => (await passing()) === 2, { timeout: 60_000, message: 'it hears that it passes' })
  t.equal((await stateOf(one)).state, 'degraded', 'it may not have asked since')
  const out = async (): Promise<boolean> => (await stateOf(one)).state === 'down'
  await until(out, { timeout: 60_000, message: 'out once it would have noticed the recovery' })
  await one.call({ do: 'mendCheck', with: 'shared' })
  await until(() => everywhere(instances, 'ready'), { timeout: 60_000 })
})

test('an instance whose checks hung, and that asks less often for it, stays in rotation', async (t) => {
  const redis = await server(t)
  const checks = { failures: 1, timeout: 100 }
  const env = { CHECK_INTERVAL: '600' }
  const { instances } = await startFleet(t, redis, 3, { fleet: { lease: LEASE }, checks }, { env })
  const [one, ...others] = instances as [AppInstance, AppInstance, AppInstance]
  await until(() => everywhere(instances, 'ready'), { timeout: 60_000 })
  for (const app of others) await app.call({ do: 'breakCheck', with: 'shared' })
  await one.call({ do: 'hangCheck', with: 'shared' })
  // Each run that hangs delays the next one: this one by 3.6 s.
  await until(async () => (await one.call<number>({ do: 'hung' })) >= 6, { timeout: 60_000 })
  for (const app of instances) await app.call({ do: 'mendCheck', with: 'shared' })
  const seen = new Set<string>()
  const recovered = async (): Promise<boolean> => {
    seen.add((await stateOf(one)).state)
    return everywhere(instances, 'ready')
  }
  await until(recovered, { timeout: 60_000, message: 'all are ready again' })
  t.notOk(seen.has('down'), [...seen].join())
})
