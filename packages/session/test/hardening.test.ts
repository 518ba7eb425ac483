import { listen, startRedis } from '@flotilla/testbed'
import Fastify from 'fastify'
import { flotillaRedis } from '@flotilla/redis'
import { after, before, test } from 'tap'
import { flotillaSession, type RejectedMessage } from '../src/index.js'
import { buildApp, SECRET } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

const keyOf = async (ref: unknown): Promise<string> =>
  ((await redis.command('KEYS', `*s:*${String(ref)}`)) as string[])[0]!

test('reload gives up what a new session was to hold', async (t) => {
  const app = await buildApp({ url: redis.url })
  app.post('/reload', async ({ session }) => {
    session.set('count', 1)
    await session.reload()
    return session.data
  })
  const { browser } = await serve(t, app)
  const { body, setCookie } = await browser().post('/reload')
  t.same(body, {})
  t.same(setCookie, [], 'nothing was saved')
})

test('the cookie of a session that has ended is cleared, so that it costs no more reads', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/login', { userId: 'ada' })
  await app.sessions.revokeAll('ada')
  t.match((await visitor.get('/me')).setCookie[0], /^sid=;.*Max-Age=0/)
  t.equal(visitor.cookies.size, 0)
})

test('a request with the cookie before a login does not clear the one of the login', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const late = visitor.clone()
  await visitor.post('/login', { userId: 'ada' })
  t.same((await late.get('/me')).setCookie, [])
  // Also if the session before had ended when the user logged in again.
  await app.sessions.revokeAll('ada')
  const dead = visitor.clone()
  const slow = visitor.clone()
  await dead.post('/login', { userId: 'ada' })
  await slow.get('/none')
  const { setCookie } = await slow.get('/me')
  t.same(setCookie, [])
})

test('no session outside of cookie.path, and no call to Redis', async (t) => {
  const app = Fastify()
  await app.register(flotillaRedis, { url: redis.url, commandTimeout: '10s' })
  await app.register(flotillaSession, { secret: SECRET, cookie: { secure: 'auto', path: '/app' } })
  for (const url of ['/app', '/app/deep', '/application', '/'])
    app.post(url, async ({ session }) => ({ count: session ? session.set('count', 1).get('count') : null }))
  const { browser } = await serve(t, app)
  const visitor = browser()
  for (const url of ['/application', '/', '/application?/app/']) {
    const { body, setCookie } = await visitor.post(url)
    t.same([body, setCookie], [{ count: null }, []], url)
  }
  for (const url of ['/app', '/app?x=1', '/app/deep'])
    t.same((await visitor.post(url)).body, { count: 1 }, url)
  t.equal(visitor.cookies.size, 1)
  const { commands } = await redis.countCommands(() => visitor.post('/application'))
  t.same(
    commands.filter(([name]) => name === 'HGETALL'),
    []
  )
})

test('a user id of more than a kilobyte is refused', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url })
  for (const userId of ['x'.repeat(1_025), 'é'.repeat(600)]) {
    const { body } = await browser().post('/login', { userId })
    t.equal(body['code'], 'FLOTILLA_SESSION_ERR_USER_ID')
    t.ok(String(body['message']).length < 300)
    await t.rejects(app.sessions.revokeAll(userId), { code: 'FLOTILLA_SESSION_ERR_USER_ID' })
  }
  t.equal((await browser().post('/login', { userId: 'x'.repeat(1_024) })).status, 200)
})

test('the user of a session cannot be changed in Redis', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  const { ref } = (await visitor.post('/login', { userId: 'ada' })).body
  await redis.command('HSET', await keyOf(ref), '@u', 'admin')
  const { status, body } = await visitor.get('/me')
  t.same([status, body['userId']], [200, null])
})

test('SameSite=None and Partitioned are left out over http, and the log says so once', async (t) => {
  const lines: string[] = []
  const { browser } = await serve(t, {
    url: redis.url,
    fastify: {
      trustProxy: true,
      logger: { level: 'error', stream: { write: (line: string) => void lines.push(line) } }
    },
    session: { cookie: { secure: 'auto', sameSite: 'none', partitioned: true } }
  })
  for (let n = 0; n < 2; n++) {
    const { setCookie } = await browser().post('/set', { count: 1 })
    t.match(setCookie[0], /SameSite=Lax/)
    t.notMatch(setCookie[0], /None|Partitioned/)
  }
  t.equal(lines.filter((line) => line.includes('SameSite=None')).length, 1)
  const { setCookie } = await browser({ 'x-forwarded-proto': 'https' }).post('/set', { count: 1 })
  t.match(setCookie[0], /Secure.*Partitioned.*SameSite=None|SameSite=None/)
})

test("createdAt in the list is Redis's time, whatever the clock here says", async (t) => {
  const { app } = await serve(t, { url: redis.url, session: { prefix: 'clock:' } })
  const { now } = Date
  Date.now = () => now() + 3_600_000
  try {
    await app.sessions.create('ada')
  } finally {
    Date.now = now
  }
  const [entry] = await app.sessions.list('ada')
  t.ok(Math.abs(entry!.createdAt.getTime() - now()) < 600_000)
})

test('a cookie signed with a secret that is not listed here is logged once, as such', async (t) => {
  const rejected = listen<RejectedMessage>(t, 'flotilla:session:rejected')
  const lines: string[] = []
  const other = await serve(t, { url: redis.url, session: { secret: 'o'.repeat(40) } })
  const { browser } = await serve(t, {
    url: redis.url,
    fastify: { logger: { level: 'error', stream: { write: (line: string) => void lines.push(line) } } }
  })
  const visitor = other.browser()
  await visitor.post('/set', { count: 1 })
  const same = browser()
  same.cookie = visitor.cookie
  for (let n = 0; n < 3; n++) {
    const { status, setCookie } = await same.get('/data')
    t.same([status, setCookie], [200, []])
  }
  t.same(
    rejected.map(({ reason }) => reason),
    ['unknown-secret', 'unknown-secret', 'unknown-secret']
  )
  t.equal(lines.filter((line) => line.includes('names a secret')).length, 1)
})

test('in every step of a rotation each instance finds, lists and revokes the sessions of all', async (t) => {
  const [old, next] = ['o'.repeat(40), 'n'.repeat(40)] as const
  const steps = [
    [old, [old, next]],
    [
      [old, next],
      [next, old]
    ]
  ] as const
  for (const encrypt of [false, true]) {
    for (const [n, secrets] of steps.entries()) {
      const prefix = `rotate-${n}-${encrypt}:`
      const fleet = await Promise.all(
        secrets.map((secret) => serve(t, { url: redis.url, session: { secret, prefix, encrypt } }))
      )
      for (const revoker of fleet) {
        const visitors = fleet.map(({ browser }) => browser())
        for (const visitor of visitors) await visitor.post('/login', { userId: 'ada' })
        for (const [m, visitor] of visitors.entries()) {
          const elsewhere = fleet[1 - m]!.browser()
          elsewhere.cookie = visitor.cookie
          t.equal((await elsewhere.get('/me')).body['userId'], 'ada')
          t.equal((await elsewhere.post('/renew')).status, 200)
        }
        t.equal(await revoker.app.sessions.count('ada'), 2)
        t.equal(await revoker.app.sessions.revokeAll('ada'), 2)
        for (const [m, visitor] of visitors.entries())
          for (const { browser } of [fleet[m]!, fleet[1 - m]!]) {
            const again = browser()
            again.cookie = visitor.cookie
            t.equal((await again.get('/me')).body['userId'], null)
          }
      }
    }
  }
})

test('options() takes what register takes, durations as durations, and refuses the rest by name', async (t) => {
  const app = await buildApp({ url: redis.url, fastify: { trustProxy: true } })
  app.post('/options', async ({ session, body }) => {
    session.set('count', 1)
    session.options(body as object)
    return {}
  })
  const { browser } = await serve(t, app)
  const visitor = (): ReturnType<typeof browser> => browser({ 'x-forwarded-proto': 'https' })
  for (const bad of [
    { domain: 'example.org' },
    { path: '/x' },
    { secure: false },
    { httpOnly: false },
    { signed: true },
    { sameSite: 'sometimes' },
    { maxAge: 'soon' },
    { samesite: 'lax' }
  ]) {
    const { status, body } = await visitor().post('/options', bad)
    t.match({ status, body }, { status: 500, body: { code: 'FLOTILLA_SESSION_ERR_OPTION' } })
    t.match(body['message'], Object.keys(bad)[0]!)
  }
  const { setCookie } = await visitor().post('/options', { maxAge: 60_000, sameSite: 'strict' })
  t.match(setCookie[0], /Max-Age=60;/)
  t.match(setCookie[0], /SameSite=Strict/)
  t.match((await visitor().post('/options', { maxAge: '2m' })).setCookie[0], /Max-Age=120;/)
  t.match((await visitor().post('/options', { maxAge: '90d' })).setCookie[0], /Max-Age=86400;/)
})
