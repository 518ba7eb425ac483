import { test } from 'tap'
import {
  sendSteadily,
  startApp,
  startHAProxy,
  startMixedLoad,
  startNginx,
  until,
  type AppFleet
} from '../src/index.js'

/* A route that fails is a fault of that route. What its clients do must not reach the other visitors: the
   balancer neither asks another instance nor takes one out of rotation for an answer, a hang or a reset. */

const script = new URL('./fixtures/app.ts', import.meta.url)

/** The status that the clients of the route see, and how many of its requests one cell needs at least. */
const faults = [
  { path: '/answers-503', outcome: '503' },
  { path: '/resets', outcome: '502' },
  { path: '/hangs', outcome: undefined },
  // nginx gives a probe one second, so that this hang ends in a timeout.
  { path: '/health/hangs', outcome: undefined }
]
const RATES = [1, 10, 100]
/** Requests of the other visitors, at least. */
const VISITS = 100

for (const [name, start] of Object.entries({ nginx: startNginx, HAProxy: startHAProxy })) {
  test(`${name}: a route that fails does not reach the other visitors`, async (t) => {
    const fleet = await startApp({ script, instances: 3 })
    t.teardown(() => fleet.stop())
    const balancer = await start({ servers: fleet.instances })
    t.teardown(() => balancer.stop())
    await until(async () => (await fetch(balancer.url)).ok)

    for (const { path, outcome } of faults) {
      for (const perSecond of RATES) {
        const cell = `${path}, ${perSecond} a second`
        const before = await runsOf(fleet)
        const faulty = sendSteadily({ url: balancer.url + path, perSecond })
        const visitors = startMixedLoad({ url: balancer.url, slow: 0, uploads: 0 })
        const { answered, failures } = visitors.report
        const visits = (): number => answered.get + answered.post
        await until(() => visits() + failures.length >= VISITS && faulty.sent >= 4 + perSecond, {
          timeout: 60_000,
          message: `${cell}: enough is asked`
        })
        const { repeated } = await visitors.stop()
        const { outcomes } = faulty
        faulty.stop()
        const after = await runsOf(fleet)

        t.equal(failures.length, 0, `${cell}: no other visitor sees it: ${failures.slice(0, 2).join(' ')}`)
        const served = (after['/'] ?? 0) - (before['/'] ?? 0)
        t.ok(served <= visits() + repeated, `${cell}: ${visits()} visits, each served once (${served})`)
        const ran = (after[path] ?? 0) - (before[path] ?? 0)
        t.ok(
          ran <= faulty.sent,
          `${cell}: ${faulty.sent} requests of the route, its handler ran ${ran} times`
        )
        if (outcome !== undefined) t.strictSame(Object.keys(outcomes), [outcome], `${cell}: its answer stays`)
      }
    }
  })
}

for (const [name, start] of Object.entries({ nginx: startNginx, HAProxy: startHAProxy })) {
  test(`${name}: two of three instances refuse connections, and no visitor sees it`, async (t) => {
    const fleet = await startApp({ script, instances: 3 })
    t.teardown(() => fleet.stop())
    const balancer = await start({ servers: fleet.instances })
    t.teardown(() => balancer.stop())
    await until(async () => (await fetch(balancer.url)).ok)
    for (const one of fleet.instances.slice(1)) await one.call('refuse connections')
    const visitors = startMixedLoad({ url: balancer.url, slow: 0, uploads: 0 })
    const { answered, failures } = visitors.report
    await until(() => answered.get + answered.post + failures.length >= VISITS, { timeout: 60_000 })
    await visitors.stop()
    t.equal(failures.length, 0, `no visit fails: ${failures.slice(0, 2).join(' ')}`)
  })
}

async function runsOf(fleet: AppFleet): Promise<Record<string, number>> {
  const sum: Record<string, number> = {}
  for (const runs of await Promise.all(
    fleet.instances.map((one) => one.call<Record<string, number>>('runs'))
  )) {
    for (const [path, count] of Object.entries(runs)) sum[path] = (sum[path] ?? 0) + count
  }
  return sum
}
