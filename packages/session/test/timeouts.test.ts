import { startRedis, until } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import type { LoginOptions } from '../src/index.js'
import { RedisClock } from '../src/store/clock.js'
import { type AppSettings, buildApp } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

async function expiryOf(ref: unknown): Promise<number> {
  const [key] = (await redis.command('KEYS', `*${String(ref)}`)) as string[]
  return key === undefined ? -2 : Number(await redis.command('PTTL', key))
}

test('a session not used ends by the idle timeout; one in use lives on, until the absolute one', async (t) => {
  const { app, browser } = await serve(t, {
    url: redis.url,
    session: { idleTimeout: '2s', absoluteTimeout: '6s', touchInterval: '100ms' }
  })
  const idle = browser()
  await idle.post('/login', { userId: 'ada' })
  const busy = browser()
  await busy.post('/login', { userId: 'ada' })
  const started = performance.now()
  t.equal(await app.sessions.count('ada'), 2)
  await until(
    async () => {
      const { body } = await busy.get('/me')
      if (performance.now() - started < 4_000 && body['userId'] !== 'ada')
        throw new Error('a session in use has ended')
      return (await app.sessions.count('ada')) === 1
    },
    { message: 'the idle one is no longer listed' }
  )
  t.equal((await idle.get('/me')).body['userId'], null)
  await until(async () => (await busy.get('/me')).body['userId'] === null, {
    message: 'the absolute timeout'
  })
  const lived = performance.now() - started
  t.ok(lived > 5_500 && lived < 12_000, `lived ${lived} ms`)
  t.equal(await app.sessions.count('ada'), 0)
})

test("deadlines are Redis's: the clock of this process may be wrong by a day in either direction", async (t) => {
  const day = 24 * 3_600_000
  const real = Date.now
  t.teardown(() => {
    Date.now = real
  })
  for (const skew of [-day, day]) {
    Date.now = () => real() + skew
    const { browser } = await serve(t, {
      url: redis.url,
      session: { idleTimeout: '10s', touchInterval: '100ms' }
    })
    const visitor = browser()
    const { body } = await visitor.post('/set', { count: 1 })
    const left = await expiryOf(body['ref'])
    t.ok(left > 8_000 && left <= 10_000, `${left} ms`)
    // The clock jumps while the session is in use.
    Date.now = () => real() - skew
    await until(async () => (await expiryOf(body['ref'])) < 9_500, { message: 'time passes' })
    await until(
      async () => {
        await visitor.get('/data')
        return (await expiryOf(body['ref'])) > 9_700
      },
      { message: 'a touch moves the deadline' }
    )
    t.same((await visitor.get('/data')).body, { count: 1 })
  }
})

test("a process that has not heard Redis's time yet touches rather than let a session in use expire", async (t) => {
  const real = Date.now
  t.teardown(() => {
    Date.now = real
  })
  const first = await serve(t, { url: redis.url, session: { idleTimeout: '10s' } })
  const visitor = first.browser()
  const { body } = await visitor.post('/set', { count: 1 })
  Date.now = () => real() - 3_600_000
  const second = await serve(t, { url: redis.url, session: { idleTimeout: '10s' } })
  const same = second.browser()
  same.cookie = visitor.cookie
  const [key] = (await redis.command('KEYS', `*${String(body['ref'])}`)) as string[]
  const before = Number(await redis.command('PEXPIRETIME', key!))
  await same.get('/data')
  await until(async () => Number(await redis.command('PEXPIRETIME', key!)) > before, {
    message: 'it was touched'
  })
  t.pass()
})

test('the clock follows what Redis told last', (t) => {
  const clock = new RedisClock()
  t.ok(Math.abs(clock.now() - Date.now()) < 1_000)
  clock.observe(1_000_000)
  t.ok(clock.now() >= 1_000_000 && clock.now() < 1_001_000)
  t.end()
})

async function appWithLogins(session: AppSettings['session'] = {}) {
  const app = await buildApp({ url: redis.url, session })
  app.post<{ Body: LoginOptions }>('/login-with', async ({ session, body }) => {
    await session.login('ada', body)
    return { ref: session.ref, expiresAt: session.expiresAt, createdAt: session.createdAt }
  })
  app.post('/proof', async ({ session }) => {
    await session.reauthenticated()
    return { authenticatedAt: session.authenticatedAt }
  })
  app.get('/proved', async ({ session }) => ({ authenticatedAt: session.authenticatedAt ?? null }))
  return app
}

const DAY = 24 * 3_600_000

test('a login decides the timeouts and the persistence of its own session', async (t) => {
  const { app, browser } = await serve(t, await appWithLogins({ idleTimeout: '1h', touchInterval: '100ms' }))
  const [remembered, short, plain] = [browser(), browser(), browser()]
  const login = await remembered.post('/login-with', {
    idleTimeout: '7d',
    absoluteTimeout: '30d',
    persistent: true
  })
  const { ref, createdAt, expiresAt } = login.body as Record<string, string>
  t.match(login.setCookie[0], /Max-Age=2592000/)
  t.equal(Date.parse(expiresAt!) - Date.parse(createdAt!), 30 * DAY)
  const brief = await short.post('/login-with', { idleTimeout: '5m', persistent: false })
  const usual = await plain.post('/login-with')
  t.notMatch(usual.setCookie[0], /Max-Age/)
  const idle = async (of: unknown): Promise<number> => Math.round((await expiryOf(of)) / 60_000)
  t.equal(await idle(ref), 7 * 24 * 60)
  t.equal(await idle(brief.body['ref']), 5)
  t.equal(await idle(usual.body['ref']), 60)

  // Whatever moves the deadline moves it by the session's own.
  const [key] = (await redis.command('KEYS', `*${ref}`)) as string[]
  for (const use of ['set', 'update/count', 'renew', 'proof']) {
    await redis.command('PEXPIRE', key!, '60000')
    const { status, setCookie } = await remembered.post(`/${use}`)
    t.equal(status, 200, use)
    if (setCookie.length > 0) t.match(setCookie[0], /Max-Age=25920/, 'still persistent')
    if (use !== 'set') t.equal(await idle(ref), 7 * 24 * 60, use)
  }
  await redis.command('PEXPIRE', key!, '60000')
  await until(async () => {
    await remembered.get('/data')
    return (await idle(ref)) === 7 * 24 * 60
  })
  t.equal(await app.sessions.count('ada'), 3)

  const again = await remembered.post('/login-with')
  t.equal(await idle(again.body['ref']), 60, 'each login decides anew')
  t.notMatch(again.setCookie[0], /Max-Age/)
})

test('a wrong option of a login is named, and logs no user in', async (t) => {
  const { app, browser } = await serve(t, await appWithLogins({ prefix: 'wrong:' }))
  for (const [body, message] of [
    [{ idleTimout: '7d' }, /did you mean 'idleTimeout'/],
    [{ idleTimeout: '7 dayz' }, /idleTimeout.*'7 dayz'/],
    [{ idleTimeout: 10 }, /idleTimeout.*between 1000/],
    [{ idleTimeout: '7d' }, /idleTimeout.*no longer than absoluteTimeout, which is 86400000 ms/],
    [{ idleTimeout: '2h', absoluteTimeout: '1h' }, /no longer than absoluteTimeout, which is 3600000 ms/],
    [{ absoluteTimeout: '2000d' }, /absoluteTimeout/],
    [{ persistent: 'yes' }, /persistent/],
    [{ label: 7 }, /label/]
  ] as const) {
    const answer = await browser().post('/login-with', body)
    t.match(
      { status: answer.status, body: answer.body },
      { status: 500, body: { code: 'FLOTILLA_SESSION_ERR_OPTION', message } }
    )
    t.equal(answer.setCookie.length, 0)
  }
  await t.rejects(app.sessions.create('ada', {}, { idleTimout: '7d' } as LoginOptions), {
    code: 'FLOTILLA_SESSION_ERR_OPTION',
    message: /sessions\.create\(\)/
  })
  t.equal(await app.sessions.count('ada'), 0)
})

test('a proof of who the user is counts on every instance, and no visitor without a user has one', async (t) => {
  for (const session of [{}, { local: { maxAge: '10m' } }] as const) {
    const settings = { prefix: `proof-${Object.keys(session).length}:`, ...session }
    const one = await serve(t, await appWithLogins(settings))
    const two = await serve(t, await appWithLogins(settings))
    const visitor = one.browser()
    t.equal((await visitor.post('/proof')).status, 401)
    await visitor.post('/set', { count: 1 })
    const before = await visitor.post('/proof')
    t.match(before, { status: 401, body: { code: 'FLOTILLA_SESSION_ERR_NO_USER' } })
    t.same((await visitor.get('/proved')).body, { authenticatedAt: null })
    const { body } = await visitor.post('/login', { userId: 'ada' })
    const login = Date.parse(String((await visitor.get('/proved')).body['authenticatedAt']))
    const { createdAt } = (await visitor.get('/me')).body
    t.equal(login, Date.parse(String(createdAt)))

    const elsewhere = two.browser()
    elsewhere.cookie = visitor.cookie
    await elsewhere.get('/proved')
    const old = visitor.clone()
    await until(async () => {
      const { status, setCookie } = await visitor.post('/proof')
      t.equal(status, 200)
      const at = Date.parse(String((await visitor.get('/proved')).body['authenticatedAt']))
      if (setCookie.length > 0) t.not(visitor.cookie, old.cookie, 'the cookie is renewed')
      return at > login
    })
    const at = (await visitor.get('/proved')).body['authenticatedAt']
    await until(async () => (await elsewhere.get('/proved')).body['authenticatedAt'] === at, {
      message: 'the other instance knows of it'
    })
    t.equal((await old.get('/me')).body['ref'], body['ref'], 'the cookie before works during the grace')
    await visitor.post('/update/count')
    t.equal((await visitor.get('/proved')).body['authenticatedAt'], at, 'a write leaves it as it is')
  }
})
