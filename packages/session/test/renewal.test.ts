import { listen, startProxy, startRedis, until } from '@flotilla/testbed'
import type { FastifyInstance } from 'fastify'
import { after, before, test, type Test } from 'tap'
import type { ReusedMessage, SessionOptions } from '../src/index.js'
import { renewAnonymous, renewOwned } from '../src/store/lua/renew.js'
import { replaceAnonymous } from '../src/store/lua/replace.js'
import { beforeScript, buildApp, type AppSettings } from './support/app.js'
import type { Browser } from './support/browser.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

const HOUR = 3_600_000
const hourly = { renew: { every: '1h', grace: '10m' } } as const

/** The keys of the sessions. */
const keysOf = async (prefix: string): Promise<string[]> =>
  (await redis.command('KEYS', `${prefix}s:*`)) as string[]

/** As if these sessions had last been renewed that many milliseconds earlier. */
async function age(prefix: string, ms = HOUR): Promise<void> {
  for (const key of await keysOf(prefix)) {
    const parts = String(await redis.command('HGET', key, '@')).split(' ')
    parts[4] = String(Number(parts[4]) - ms)
    await redis.command('HSET', key, '@', parts.join(' '))
  }
}

interface Visit {
  app: FastifyInstance
  visitor: Browser
  prefix: string
}

let visits = 0

/** A visitor who is logged in and has some data. */
async function visit(t: Test, session: Partial<SessionOptions> = {}): Promise<Visit> {
  const prefix = `visit${visits++}:`
  const { app, browser } = await serve(t, { url: redis.url, session: { prefix, ...session } })
  const visitor = browser()
  await visitor.post('/login', { userId: 'ada' })
  await visitor.post('/set', { count: 1 })
  return { app, visitor, prefix }
}

const userOf = async (visitor: Browser): Promise<unknown> => (await visitor.clone().get('/me')).body['userId']

const MODES = { plain: {}, encrypted: { encrypt: true }, local: { local: { maxAge: '10m' } } } as const

for (const [mode, options] of Object.entries(MODES)) {
  test(`${mode}: renew gives another cookie and keeps everything, also the key and the reference`, async (t) => {
    const { visitor, prefix } = await visit(t, options)
    const before = await visitor.get('/me')
    const keys = await keysOf(prefix)
    const old = visitor.clone()
    await visitor.post('/renew')
    t.not(visitor.cookie, old.cookie)
    t.same((await visitor.get('/data')).body, { count: 1 })
    t.same((await visitor.get('/me')).body, before.body)
    t.same(await keysOf(prefix), keys)
    t.equal((await visitor.post('/revoke', { ref: before.body['ref'] })).body['revoked'], true)
    for (const one of [visitor, old]) t.equal(await userOf(one), null)
  })

  test(`${mode}: a response that is lost logs nobody out, and a page that sends many requests gets one cookie`, async (t) => {
    const { visitor } = await visit(t, options)
    const old = visitor.clone()
    // Its response never arrives.
    await visitor.clone().post('/renew')
    const answers = await Promise.all(Array.from({ length: 5 }, () => old.clone().post('/update/count')))
    for (const { status } of answers) t.equal(status, 200)
    t.equal(new Set(answers.map(({ setCookie }) => setCookie.join())).size, 1, 'all are given the same one')
    const next = old.clone()
    t.equal((await next.get('/data')).body['count'], 6)
    t.not(next.cookie, old.cookie)
    t.equal(await userOf(next), 'ada')
    t.equal((await old.clone().get('/data')).body['count'], 6, 'within the grace the old one still works')
  })

  test(`${mode}: an old cookie that comes back after the grace ends the session for all`, async (t) => {
    const reused = listen<ReusedMessage>(t, 'flotilla:session:reused')
    const { app, visitor } = await visit(t, { ...options, renew: { grace: 0 } })
    const revoked: unknown[] = []
    app.bus.subscribe('session.revoked', (payload) => void revoked.push(payload))
    await app.bus.ready()
    const stolen = visitor.clone()
    const { ref } = (await visitor.post('/renew')).body
    t.equal(await userOf(stolen), 'ada', 'nobody can know yet')
    // The successor is presented.
    t.equal(await userOf(visitor), 'ada')
    const { status, body, setCookie } = await stolen.clone().get('/me')
    t.equal(status, 200)
    t.equal(body['userId'], null)
    t.match(setCookie[0], /Max-Age=0/, 'the thief keeps nothing')
    t.same(reused, [{ ref, reason: 'reused', ended: true }])
    await until(() => revoked.length > 0, { message: 'the fleet is notified' })
    t.match(revoked[0], { refs: [ref] })
    t.equal(await userOf(visitor), null)
    t.equal(await app.sessions.count('ada'), 0)
  })
}

test('a thief who renews first is found out when the owner comes back', async (t) => {
  const { app, visitor } = await visit(t, { renew: { grace: 0 } })
  const thief = visitor.clone()
  await thief.post('/renew')
  await thief.get('/me')
  t.equal(await userOf(visitor), null)
  t.equal(await userOf(thief), null)
  t.equal(await app.sessions.count('ada'), 0)
})

test("onReuse 'reject' refuses the old cookie and leaves the session alone", async (t) => {
  const reused = listen<ReusedMessage>(t, 'flotilla:session:reused')
  const { app, visitor } = await visit(t, { onReuse: 'reject', renew: { grace: 0 } })
  const stolen = visitor.clone()
  await visitor.post('/renew')
  await visitor.get('/me')
  t.equal(await userOf(stolen), null)
  t.match(reused, [{ reason: 'reused', ended: false }])
  t.equal(await userOf(visitor), 'ada')
  t.equal(await app.sessions.count('ada'), 1)
})

test('a cookie from long before is reused as well, and one whose session has ended is just old', async (t) => {
  const reused = listen(t, 'flotilla:session:reused')
  const { visitor } = await visit(t, { renew: { grace: 0 } })
  const old = visitor.clone()
  for (let n = 0; n < 3; n++) await visitor.post('/renew')
  t.equal(await userOf(old), null)
  t.equal(reused.length, 1)
  t.equal(await userOf(old), null)
  t.equal(reused.length, 1)
})

test('renew({ immediate: true }) voids the cookie before at once, and ends nothing when it comes back', async (t) => {
  for (const encrypt of [false, true]) {
    const app = await buildApp({ url: redis.url, session: { encrypt, prefix: `at-once-${encrypt}:` } })
    app.post('/renew-now', async ({ session }) => session.renew({ immediate: true }).then(() => ({})))
    const { browser } = await serve(t, app)
    const visitor = browser()
    await visitor.post('/login', { userId: 'ada' })
    const old = visitor.clone()
    await visitor.post('/renew-now')
    const { body, setCookie } = await old.clone().get('/me')
    t.equal(body['userId'], null)
    t.same(setCookie, [], 'what the browser has by now is not touched')
    t.equal(await userOf(visitor), 'ada')
  }
})

test('the grace begins when the successor is presented, and Redis measures it', async (t) => {
  const { visitor } = await visit(t, { renew: { grace: '1s' } })
  const old = visitor.clone()
  await visitor.post('/renew')
  await redis.command('SET', 'wait', '1', 'PX', '1500')
  await until(async () => (await redis.command('EXISTS', 'wait')) === 0, { message: 'longer than the grace' })
  t.equal(await userOf(old), 'ada', 'the successor has not been presented')
  await visitor.get('/me')
  t.equal(await userOf(old), 'ada', 'within the grace')
  await until(async () => (await userOf(old)) === null, { message: 'the grace ends' })
})

test('a session is not renewed again while the cookie before still works', async (t) => {
  const renewed = listen(t, 'flotilla:session:renewed')
  const { visitor } = await visit(t)
  const old = visitor.clone()
  for (let n = 0; n < 3; n++) {
    await visitor.post('/renew')
    t.equal((await old.clone().post('/renew')).status, 200)
    t.equal(await userOf(old), 'ada')
    t.equal(await userOf(visitor), 'ada')
  }
  t.equal(renewed.length, 1)
})

test('periodic renewal: in time, once for parallel requests, whatever they write', async (t) => {
  for (const encrypt of [false, true]) {
    const renewed = listen(t, 'flotilla:session:renewed')
    const { visitor, prefix } = await visit(t, { ...hourly, encrypt })
    t.equal((await visitor.get('/data')).setCookie.length, 0)
    await age(prefix)
    const keys = ['a', 'b', 'c', 'd', 'e']
    const old = visitor.clone()
    const answers = await Promise.all(keys.map((key) => old.clone().post('/set', { [key]: 1 })))
    t.same(
      answers.map(({ status }) => status),
      [200, 200, 200, 200, 200]
    )
    t.equal(renewed.length, 1)
    const cookies = new Set(answers.flatMap(({ setCookie }) => setCookie))
    t.equal(cookies.size, 1)
    visitor.cookie = [...cookies][0]!.split(';')[0]!
    t.same((await visitor.get('/data')).body, { count: 1, a: 1, b: 1, c: 1, d: 1, e: 1 })
    t.equal(await userOf(visitor), 'ada')
  }
})

test('a renewal that a failover loses: the browser keeps its session, and an older copy is still found out', async (t) => {
  const { app, visitor, prefix } = await visit(t, { renew: { grace: 0 } })
  const old = visitor.clone()
  const [key] = await keysOf(prefix)
  const before = (await redis.command('HGETALL', key!)) as string[]
  await visitor.post('/renew')
  // As the replica has it that did not hear of the renewal.
  await redis.command('HDEL', key!, '@s')
  await redis.command('HSET', key!, ...before)
  t.equal(await userOf(visitor), 'ada')
  t.same((await visitor.get('/data')).body, { count: 1 })
  t.equal((await visitor.post('/renew')).status, 200)
  t.equal(await userOf(visitor), 'ada')
  t.equal(await userOf(old), null)
  t.equal(await app.sessions.count('ada'), 0)
})

test('a renewal that a failover loses, encrypted: the visitor logs in again, nothing is ended', async (t) => {
  const { app, visitor, prefix } = await visit(t, { encrypt: true, renew: { grace: 0 } })
  const old = visitor.clone()
  const [key] = await keysOf(prefix)
  const before = (await redis.command('HGETALL', key!)) as string[]
  await visitor.post('/renew')
  await redis.command('HDEL', key!, '@s')
  await redis.command('HSET', key!, ...before)
  const { status, body, setCookie } = await visitor.clone().get('/me')
  t.same([status, body['userId'], setCookie.length], [200, null, 0])
  t.equal(await userOf(old), 'ada')
  t.equal(await app.sessions.count('ada'), 1)
})

/** Has a script carried out, loses the reply to it with the connection, and returns what came of it. */
async function replyLost<Answer>(
  t: Test,
  settings: Omit<AppSettings, 'url'>,
  of: { scripts: string[]; done: () => Promise<boolean> },
  act: (visitor: Browser) => Promise<Answer>
): Promise<{ answer: Answer; visitor: Browser; old: Browser; app: FastifyInstance }> {
  const proxy = await startProxy(redis)
  t.teardown(() => proxy.stop())
  const app = await buildApp({ url: proxy.through(redis.url), ...settings })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  // From now on the server knows the script: a lost NOSCRIPT would be another story.
  await visitor.post('/regenerate', { keep: ['count'] })
  await visitor.post('/renew')
  const old = visitor.clone()
  beforeScript(app, of.scripts, () => proxy.loseReplies())
  const acting = act(visitor)
  await until(of.done, { message: 'it was carried out' })
  proxy.cut()
  await proxy.restore()
  return { answer: await acting, visitor, old, app }
}

test('a renewal whose reply was lost and that the client sent again is the one that was made', async (t) => {
  for (const encrypt of [false, true]) {
    const prefix = `lost-${encrypt}:`
    const done = async (): Promise<boolean> => {
      for (const key of await keysOf(prefix))
        if (String(await redis.command('HGET', key, '@v')).startsWith('3 ')) return true
      return false
    }
    const scripts = [renewAnonymous.sha, renewOwned.sha]
    const { answer, visitor, old } = await replyLost(
      t,
      { session: { encrypt, prefix, renew: { grace: 0 } } },
      { scripts, done },
      (one) => one.post('/renew')
    )
    t.equal(answer.status, 200)
    t.not(visitor.cookie, old.cookie)
    t.match(visitor.cookie, /\.3\.[\w-]{4}\./)
    t.same((await visitor.get('/data')).body, { count: 1 })
  }
})

test('a login whose end of the session before was carried out and sent again keeps the data', async (t) => {
  const dropped = listen(t, 'flotilla:session:dropped')
  for (const encrypt of [false, true]) {
    const prefix = `ended-${encrypt}:`
    const done = async (): Promise<boolean> => {
      const there = await Promise.all(
        (await keysOf(prefix)).map((key) => redis.command('HMGET', key, '@', '@t', '@u'))
      )
      return (there as (string | null)[][]).filter(([meta]) => meta !== null).every(([, , user]) => user)
    }
    const { answer, visitor, old } = await replyLost(
      t,
      { session: { encrypt, prefix } },
      { scripts: [replaceAnonymous.sha], done },
      (one) => one.post('/login', { userId: 'ada' })
    )
    t.equal(answer.status, 200)
    t.same((await visitor.get('/data')).body, { count: 1 })
    t.same((await old.clone().get('/data')).body, {}, 'the old cookie is dead')
    t.same(dropped, [], 'and nothing is found in its place')
    for (const key of await keysOf(prefix))
      t.ok(Number(await redis.command('PTTL', key)) > 0, 'nothing stays')
  }
})
