import { startApp, startRedis } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import { buildApp } from './support/app.js'
import { Browser } from './support/browser.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

test('a thousand saves against revocations: no session comes back', async (t) => {
  const { app } = await serve(t, { url: redis.url, session: { prefix: 'race:' } })
  const orders = { 'save first': 0, 'save refused': 0, 'update first': 0, 'update refused': 0 }
  const race = async (n: number): Promise<void> => {
    const userId = `user ${n % 50}`
    const { id, ref } = await app.sessions.create(userId, { count: n })
    const session = (await app.sessions.get(id!))!
    const how = n % 2 ? 'save' : 'update'
    // In half of the races the writer is the one that comes a turn later.
    const pause = async (): Promise<void> => {
      if (n % 4 >= 2) await new Promise((resolve) => setImmediate(resolve))
    }
    const save = async (): Promise<void> => {
      session.set('count', -1)
      session.set('late', n)
      await pause()
      await session.save()
    }
    const update = async (): Promise<void> => {
      await pause()
      try {
        await session.update('count', (count = 0) => count + 1)
      } catch (error) {
        if ((error as { code?: string }).code !== 'FLOTILLA_SESSION_ERR_GONE') throw error
      }
    }
    const write = how === 'save' ? save() : update()
    const revoke = async (): Promise<boolean> => {
      // Sometimes first, sometimes last, mostly neck and neck.
      for (let turn = 0; turn < n % 12; turn++) await Promise.resolve()
      if (n % 5 === 0) await new Promise((resolve) => setImmediate(resolve))
      return await app.sessions.revoke(userId, ref)
    }
    const [revoked] = await Promise.all([revoke(), write])
    if (!revoked) t.fail('the revocation found nothing')
    orders[`${how} ${session.isNew ? 'refused' : 'first'}`]++
    session.set('late', -n)
    if (!session.isNew) await session.save()
    if (await app.sessions.get(id!)) t.fail('it came back')
  }
  for (let batch = 0; batch < 20; batch++) {
    await Promise.all(Array.from({ length: 50 }, (_none, n) => race(batch * 50 + n)))
  }
  const counts = Object.values(orders)
  t.equal(
    counts.reduce((sum, count) => sum + count, 0),
    1_000
  )
  t.ok(
    counts.every((count) => count > 0),
    `every order happened: ${JSON.stringify(orders)}`
  )
  t.same(await redis.command('KEYS', 'race:*'), [], 'nothing is left in Redis')
})

test('revokeAll is exact against concurrent logins on three processes', async (t) => {
  const settings = { url: redis.url, session: { prefix: 'exact:' } }
  const fleet = await startApp({
    script: new URL('support/process.ts', import.meta.url),
    instances: 3,
    env: { APP_SETTINGS: JSON.stringify(settings) }
  })
  t.teardown(() => fleet.stop())
  const { app } = await serve(t, settings)
  const logins: { visitor: Browser; from: number; to: number }[] = []
  const sweeps: { from: number; to: number; count: number }[] = []
  const login = async (n: number): Promise<void> => {
    const visitor = new Browser(fleet.urls[n % 3]!)
    const from = performance.now()
    await visitor.post('/login', { userId: 'ada' })
    logins.push({ visitor, from, to: performance.now() })
  }
  const sweep = async (): Promise<void> => {
    const from = performance.now()
    const count = await app.sessions.revokeAll('ada')
    sweeps.push({ from, to: performance.now(), count })
  }
  for (let round = 0; round < 10; round++) {
    const some = (): Promise<void>[] => Array.from({ length: 10 }, (_none, n) => login(n))
    await Promise.all([...some(), sweep(), sweep(), ...some()])
  }
  await login(0)
  let alive = 0
  for (const { visitor, from, to } of logins) {
    const { body } = await visitor.get('/me')
    const is = body['userId'] === 'ada'
    if (is) alive++
    const mustBeDead = sweeps.some((one) => one.from > to)
    const mustLive = sweeps.every((one) => one.to < from)
    if (is && mustBeDead) t.fail('a session survived a revokeAll that began after its login')
    if (!is && mustLive) t.fail('a session was ended by a revokeAll that had returned before its login')
  }
  const revoked = sweeps.reduce((sum, { count }) => sum + count, 0)
  t.equal(revoked + alive, logins.length, 'each session was ended once or lives')
  t.equal(await app.sessions.count('ada'), alive, 'the index says the same')
})

test("a new visitor's slow update keeps no other new visitor waiting, and loses none of its own", async (t) => {
  const app = await buildApp({ url: redis.url })
  let release = (): void => {}
  let entered = (): void => {}
  const inside = new Promise<void>((resolve) => (entered = resolve))
  const gate = new Promise<void>((resolve) => (release = resolve))
  app.post('/slow', async ({ session }) => {
    const slow = session.update('count', async (n = 0) => {
      entered()
      await gate
      return n + 1
    })
    await Promise.all([slow, session.update('count', (n = 0) => n + 1)])
    return { value: session.get('count') }
  })
  const { browser } = await serve(t, app)
  const slow = browser().post('/slow')
  await inside
  const first = await Promise.race([slow.then(() => 'slow'), browser().post('/update/count')])
  release()
  t.match(first, { status: 200, body: { value: 1 } })
  t.same((await slow).body, { value: 2 })
})
