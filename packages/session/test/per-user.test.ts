import { listen, startRedis } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

test('maxPerUser ends the oldest sessions, and notifies as for any other end', async (t) => {
  const { app, browser } = await serve(t, {
    url: redis.url,
    session: { prefix: 'max:', maxPerUser: { max: 2 } }
  })
  const revoked = listen<{ refs: string[]; userId?: string }>(t, 'flotilla:session:revoked')
  const browsers = [browser(), browser(), browser()]
  const refs: unknown[] = []
  for (const one of browsers) refs.push((await one.post('/login', { userId: 'ada' })).body['ref'])
  await browser().post('/login', { userId: 'bob' })
  t.same(revoked, [{ refs: [refs[0]], userId: 'ada' }])
  t.same(await Promise.all(browsers.map(async (one) => (await one.get('/me')).body['userId'])), [
    null,
    'ada',
    'ada'
  ])
  t.equal(await app.sessions.count('ada'), 2)
})

test("maxPerUser with 'refuse': a further login fails, one's own place is free again after logout", async (t) => {
  const { app, browser } = await serve(t, {
    url: redis.url,
    session: { prefix: 'refuse:', maxPerUser: { max: 1, onExceed: 'refuse' } }
  })
  const first = browser()
  const second = browser()
  await first.post('/login', { userId: 'ada' })
  await second.post('/set', { count: 1 })
  const { status, body } = await second.post('/login', { userId: 'ada' })
  t.match({ status, body }, { status: 409, body: { code: 'FLOTILLA_SESSION_ERR_TOO_MANY' } })
  t.notMatch(body['message'], /\d/, 'the client is not given the limit')
  t.same((await second.get('/data')).body, { count: 1 }, 'the visitor keeps the session there was')
  t.equal((await first.get('/me')).body['userId'], 'ada')
  await first.post('/logout')
  t.equal((await second.post('/login', { userId: 'ada' })).status, 200)
  t.equal(await app.sessions.count('ada'), 1)
})

test('parallel logins never exceed maxPerUser', async (t) => {
  const settings = { url: redis.url, session: { prefix: 'parallel:', maxPerUser: { max: 3 } } }
  const [one, two] = [await serve(t, settings), await serve(t, settings)]
  const browsers = Array.from({ length: 20 }, (_none, n) => (n % 2 ? one : two).browser())
  await Promise.all(browsers.map((each) => each.post('/login', { userId: 'ada' })))
  t.equal(await one.app.sessions.count('ada'), 3)
  const users = await Promise.all(browsers.map(async (each) => (await each.get('/me')).body['userId']))
  t.equal(users.filter((user) => user === 'ada').length, 3)
})

test('a login while the user is at the limit replaces the session of the same browser', async (t) => {
  const { app, browser } = await serve(t, {
    url: redis.url,
    session: { prefix: 'again:', maxPerUser: { max: 1 } }
  })
  const visitor = browser()
  await visitor.post('/login', { userId: 'ada' })
  await visitor.post('/set', { count: 1 })
  t.equal((await visitor.post('/login', { userId: 'ada' })).status, 200)
  t.same((await visitor.get('/data')).body, { count: 1 })
  t.equal(await app.sessions.count('ada'), 1)
})
