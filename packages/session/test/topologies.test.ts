import { onEachTopology, startApp, until, type Topology } from '@flotilla/testbed'
import { test, type Test } from 'tap'
import { Browser } from './support/browser.js'
import { serve } from './support/serve.js'

/** SIGKILL of a master while sessions are written; resolves when the writes may go on. */
async function killMaster(topology: Topology): Promise<void> {
  if (topology.topology === 'single') return
  if (topology.topology === 'sentinel') {
    const master = await topology.redis.master()
    await master.kill()
    await topology.redis.waitForFailover(master)
    return
  }
  const master = await topology.redis.masterOf('anything')
  await master.kill()
  await topology.redis.waitForFailover(master)
}

test('sessions on each topology', async (t) => {
  await onEachTopology<Test>(t, async (t, topology) => {
    const { url } = topology
    const durable = topology.topology !== 'single' && { durable: { replicas: 1, timeout: '2s' } }
    const settings = { url, redis: { commandTimeout: '3s' }, session: { ...durable } }
    const fleet = await startApp({
      script: new URL('support/process.ts', import.meta.url),
      instances: 3,
      env: { APP_SETTINGS: JSON.stringify(settings) }
    })
    t.teardown(() => fleet.stop())

    await t.test('write here, read there; parallel writes all survive', async (t) => {
      const visitor = new Browser(fleet.urls)
      await visitor.post('/set', { first: 1 })
      await Promise.all(
        Array.from({ length: 50 }, (_none, n) => visitor.post('/set', { [`field${n}`]: n }, n))
      )
      t.equal(Object.keys((await visitor.get('/data', 1)).body).length, 51)
    })

    await t.test('updates are atomic', async (t) => {
      const visitor = new Browser(fleet.urls)
      await visitor.post('/set', { count: 0 })
      await Promise.all(Array.from({ length: 60 }, (_none, n) => visitor.post('/update/count', {}, n)))
      t.same((await visitor.get('/get/count', 2)).body, { value: 60 })
    })

    await t.test('login, list, revoke, revokeAll across slots', async (t) => {
      for (let user = 0; user < 8; user++) {
        const userId = `user ${user}`
        const phone = new Browser(fleet.urls)
        await phone.post('/set', { cart: { items: [userId] } })
        t.equal((await phone.post('/login', { userId }, 1)).status, 200)
        const laptop = new Browser(fleet.urls)
        await laptop.post('/login', { userId }, 2)
        t.same((await phone.get('/data', 2)).body, { cart: { items: [userId] } })
        const { body: list } = await laptop.get<{ ref: string }[]>('/sessions')
        t.equal(list.length, 2)
        const { ref } = (await phone.get('/me')).body
        t.equal((await laptop.post('/revoke', { ref }, 1)).body['revoked'], true)
        t.equal((await phone.get('/me', 2)).body['userId'], null)
        t.equal((await laptop.post('/revoke-all', { all: true }, 2)).body['revoked'], 1)
        t.equal((await laptop.get('/me', 1)).body['userId'], null)
      }
    })

    if (topology.topology === 'single') return

    await t.test(
      'SIGKILL of a master in the middle of writes: bounded errors, nothing durable lost',
      async (t) => {
        const visitors = Array.from({ length: 24 }, () => new Browser(fleet.urls))
        const ended: Browser[] = []
        for (const [n, visitor] of visitors.entries()) {
          await visitor.post('/login', { userId: `failover ${n}` }, n)
          if (n % 3 === 0) {
            ended.push(visitor.clone())
            t.equal((await visitor.post('/logout')).status, 200)
          }
        }
        const living = visitors.filter((_one, n) => n % 3 !== 0)
        const acknowledged = new Set<Browser>()
        const phase = { over: false }
        const statuses = new Set<number>()
        const writing = living.map(async (visitor, n) => {
          for (let round = 1; !phase.over; round++) {
            const from = performance.now()
            const { status } = await visitor.post('/set', { [`round${n}`]: round }, round)
            statuses.add(status)
            if (performance.now() - from > 20_000) t.fail('a request hung')
            if (status === 200) acknowledged.add(visitor)
          }
        })
        await until(() => acknowledged.size === living.length, { message: 'every session is being written' })
        await killMaster(topology)
        await until(
          async () =>
            (await Promise.all(living.map((one) => one.get('/me')))).every(({ status }) => status === 200),
          { message: 'every session answers again', timeout: 30_000 }
        )
        phase.over = true
        await Promise.all(writing)
        t.strictSame(
          [...statuses].filter((status) => status !== 200 && status !== 503),
          [],
          'only 200 and 503'
        )
        for (const [n, visitor] of living.entries()) {
          const { body } = await visitor.get('/me', n)
          if (body['userId'] === null) t.fail(`login ${n} was lost, though a replica had it`)
          const again = await visitor.post('/set', { after: 1 }, n)
          if (again.status !== 200) t.fail(`status ${again.status} after the failover`)
        }
        for (const visitor of ended) {
          if ((await visitor.get('/me')).body['userId'] !== null)
            t.fail('a logout was undone by the failover')
        }
        const { app } = await serve(t, settings)
        t.equal(await app.sessions.count('failover 1'), 1)
      }
    )
  })
})
