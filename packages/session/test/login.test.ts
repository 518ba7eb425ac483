import type { FastifyInstance } from 'fastify'
import { startRedis, until } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import { replaceAnonymous, replaceOwned } from '../src/store/lua/replace.js'
import { beforeScript, buildApp, type AppSettings } from './support/app.js'
import type { Browser } from './support/browser.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

/** Runs `fault` when a login or a regeneration has opened the new session and is about to end the old one, each time until it says false. */
function beforeEnding(app: FastifyInstance, fault: () => Promise<boolean> | boolean): void {
  let armed = true
  beforeScript(app, [replaceAnonymous.sha, replaceOwned.sha], async () => {
    if (!armed) return
    // The fault itself may end sessions.
    armed = false
    armed = await fault()
  })
}

async function served(
  t: Parameters<typeof serve>[0],
  settings: AppSettings
): Promise<{ app: FastifyInstance; visitor: Browser; other: Browser }> {
  const app = await buildApp(settings)
  app.post<{ Body: { userId: string; set: Record<string, unknown> } }>(
    '/set-and-login',
    async ({ session, body }) => {
      for (const [key, value] of Object.entries(body.set)) session.set(key, value)
      await session.login(body.userId)
      return session.data
    }
  )
  app.post('/login-and-update', async ({ session }) => {
    await session.login('ada')
    return { value: await session.update('count', (n = 0) => n + 1) }
  })
  app.post('/save-and-update', async ({ session }) => {
    session.set('count', 1)
    await session.save()
    return { value: await session.update('count', (n = 0) => n + 1) }
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { cart: { items: ['book'] }, count: 1 })
  return { app, visitor, other: visitor.clone() }
}

const CART = { cart: { items: ['book'] }, count: 1 }

test('a login that would make the session too large leaves it as it was', async (t) => {
  const { app, visitor } = await served(t, { url: redis.url, session: { maxSize: '1kb' } })
  const { cookie } = visitor
  const answer = await visitor.post('/set-and-login', { userId: 'large', set: { large: 'y'.repeat(1_000) } })
  t.equal(answer.status, 413)
  t.equal(answer.body['code'], 'FLOTILLA_SESSION_ERR_TOO_LARGE')
  t.equal(answer.setCookie.length, 0)
  t.equal(visitor.cookie, cookie)
  t.same((await visitor.get('/data')).body, CART)
  t.equal(await app.sessions.count('large'), 0)
  t.equal((await visitor.post('/login', { userId: 'large' })).status, 200)
  t.same((await visitor.get('/data')).body, CART)
})

test('a login with data that its schema refuses leaves the session as it was', async (t) => {
  const { app, visitor } = await served(t, {
    url: redis.url,
    session: {
      schema: {
        '~standard': {
          version: 1,
          vendor: 'test',
          validate: (value) =>
            typeof (value as { count?: unknown }).count === 'number'
              ? { value: value as object }
              : { issues: [{ message: 'must be a number', path: ['count'] }] }
        }
      }
    }
  })
  const answer = await visitor.post('/set-and-login', { userId: 'strict', set: { count: 'many' } })
  t.equal(answer.body['code'], 'FLOTILLA_SESSION_ERR_INVALID_DATA')
  t.equal(answer.setCookie.length, 0)
  t.same((await visitor.get('/data')).body, CART)
  t.equal(await app.sessions.count('strict'), 0)
})

test('Redis stops answering between the two: the visitor keeps the session, also when Redis catches up', async (t) => {
  const own = await startRedis()
  t.teardown(() => own.stop())
  const regenerate = ['/regenerate', { keep: ['cart', 'count'] }] as const
  const login = ['/login', { userId: 'ada' }] as const
  const cases = [
    [undefined, login],
    ['ada', login],
    [undefined, regenerate],
    ['ada', regenerate]
  ] as const
  for (const [user, [path, body]] of cases) {
    const { app, visitor } = await served(t, {
      url: own.url,
      redis: { commandTimeout: '500ms' },
      session: { prefix: `pause-${user}-${path.slice(1)}:` }
    })
    if (user) await visitor.post('/login', { userId: user })
    const { cookie } = visitor
    beforeEnding(app, () => {
      own.pause()
      return false
    })
    const answer = await visitor.post(path, body)
    t.equal(answer.status, 503)
    t.equal(answer.body['code'], 'FLOTILLA_SESSION_ERR_UNAVAILABLE')
    t.equal(answer.setCookie.length, 0)
    // What was sent meanwhile is in the socket: Redis runs it now, before anything that is sent from here on.
    own.resume()
    const left = user ? 1 : 0
    await until(async () => (await app.sessions.count('ada').catch(() => -1)) === left, {
      message: 'the half-opened session is gone'
    })
    t.same((await visitor.get('/data')).body, CART)
    t.equal((await visitor.get('/me')).body['userId'], user ?? null)
    t.equal(visitor.cookie, cookie)
    t.equal((await visitor.post(path, body)).status, 200)
    t.same((await visitor.get('/data')).body, CART)
    t.equal(await app.sessions.count('ada'), path === '/login' ? 1 : 0)
  }
})

test('Redis dies between the two: the visitor keeps the session', async (t) => {
  const own = await startRedis({ durable: true })
  t.teardown(() => own.stop())
  const { app, visitor } = await served(t, { url: own.url, redis: { commandTimeout: '500ms' } })
  const { cookie } = visitor
  beforeEnding(app, async () => {
    await own.kill()
    return false
  })
  const answer = await visitor.post('/login', { userId: 'ada' })
  t.equal(answer.status, 503)
  t.equal(answer.setCookie.length, 0)
  await own.restart()
  await until(async () => (await visitor.get('/data')).status === 200, { message: 'Redis is back' })
  t.same((await visitor.get('/data')).body, CART)
  t.equal(visitor.cookie, cookie)
  t.equal((await visitor.post('/login', { userId: 'ada' })).status, 200)
  t.same((await visitor.get('/data')).body, CART)
})

test('what another request writes between the two comes along, however often, and the old id is dead', async (t) => {
  for (const encrypt of [false, true]) {
    const { app, visitor, other } = await served(t, {
      url: redis.url,
      session: { encrypt, prefix: `between-${encrypt}:` }
    })
    let writes = 0
    beforeEnding(app, async () => {
      const { status } = await other.post('/set', { [`late${++writes}`]: writes, count: undefined })
      if (writes === 2) await other.post('/update/count')
      t.equal(status, 200)
      return writes < 8
    })
    t.equal((await visitor.post('/set-and-login', { userId: 'ada', set: { own: true } })).status, 200)
    const { body } = await visitor.get('/data')
    t.ok(writes > 5, 'more often than a login is patient')
    const late = Object.fromEntries(Array.from({ length: writes }, (_, n) => [`late${n + 1}`, n + 1]))
    t.same(body, { ...CART, count: 2, own: true, ...late })
    t.same((await other.get('/data')).body, {}, 'the old id')
  }
})

test('data that the handler holds stays the data of the session, with what others and it itself do meanwhile', async (t) => {
  for (const encrypt of [false, true]) {
    const prefix = `held-${encrypt}:`
    const app = await buildApp({ url: redis.url, session: { encrypt, prefix } })
    let held: Record<string, unknown> = {}
    app.post('/forget', async ({ session }) => ({ ref: session.delete('taken').ref }))
    app.post<{ Body: { userId: string } }>('/hold', async ({ session, body }) => {
      const data = session.data as Record<string, unknown>
      held = data
      const cart = session.data.cart
      await session.login(body.userId)
      data['after'] = 1
      delete data['gone']
      cart?.items.push('pen')
      return { same: data === session.data, data: session.data }
    })
    const { browser } = await serve(t, app)
    const visitor = browser()
    await visitor.post('/set', { cart: { items: ['book'] }, count: 1, gone: 1, taken: 1 })
    const other = visitor.clone()
    let meanwhile = async (): Promise<void> => {
      await other.post('/set', { late: 1, count: 2 })
      await other.post('/forget')
      held['own'] = 1
    }
    beforeEnding(app, async () => {
      await meanwhile()
      return false
    })
    const expected = { cart: { items: ['book', 'pen'] }, count: 2, late: 1, own: 1, after: 1 }
    t.same((await visitor.post('/hold', { userId: 'ada' })).body, { same: true, data: expected })
    t.same((await visitor.get('/data')).body, expected)
    meanwhile = async () => {}
    t.same(
      (await visitor.post('/hold', { userId: 'bob' })).body,
      { same: false, data: {} },
      'of another user'
    )
    t.same((await visitor.get('/data')).body, {})

    const fresh = browser()
    t.same((await fresh.post('/hold', { userId: 'ada' })).body, { same: true, data: { after: 1 } })
    t.same((await fresh.get('/data')).body, { after: 1 })
  }
})

test('ended by another request between the two, the data does not come along', async (t) => {
  const { app, visitor, other } = await served(t, { url: redis.url })
  beforeEnding(app, async () => {
    await other.post('/logout')
    return false
  })
  const { status, body } = await visitor.post('/set-and-login', { userId: 'ada', set: { own: true } })
  t.equal(status, 200)
  t.same(body, { own: true })
  t.same((await visitor.get('/data')).body, { own: true })
})

test('what becomes unreadable between the two is dropped, and the login goes on without it', async (t) => {
  const { app, visitor } = await served(t, { url: redis.url, session: { prefix: 'spoil:' } })
  let spoilt = ''
  beforeEnding(app, async () => {
    ;[spoilt = ''] = (await redis.command(
      'KEYS',
      `spoil:s:*${String((await visitor.clone().get('/me')).body['ref'])}`
    )) as string[]
    await redis.command('DEL', spoilt)
    await redis.command('SET', spoilt, 'text')
    return false
  })
  t.equal((await visitor.post('/login', { userId: 'ada' })).status, 200)
  t.same((await visitor.get('/data')).body, {})
  t.equal((await visitor.get('/me')).body['userId'], 'ada')
  await until(async () => (await redis.command('EXISTS', spoilt)) === 0, { message: 'it is removed' })
})

test('revoked between the two, the login fails and nothing comes back', async (t) => {
  const { app, visitor } = await served(t, { url: redis.url })
  let taken = 0
  beforeEnding(app, async () => {
    if (++taken > 1) return false
    await visitor.clone().post('/set', { late: 1 })
    await app.sessions.revokeAll('revoked')
    return true
  })
  const { body, setCookie } = await visitor.post('/login', { userId: 'revoked' })
  t.equal(body['code'], 'FLOTILLA_SESSION_ERR_GONE')
  t.equal(setCookie.length, 0)
  t.equal(await app.sessions.count('revoked'), 0)
  t.same((await visitor.get('/data')).body, { ...CART, late: 1 })
})

test('an update in the request that opened the session, encrypted or not', async (t) => {
  for (const encrypt of [false, true]) {
    const { visitor, other } = await served(t, {
      url: redis.url,
      session: { encrypt, prefix: `update-${encrypt}:` }
    })
    t.same((await visitor.post('/login-and-update')).body, { value: 2 })
    t.same((await visitor.get('/data')).body, { ...CART, count: 2 })
    other.cookies.clear()
    t.same((await other.post('/save-and-update')).body, { value: 2 })
    t.same((await other.get('/data')).body, { count: 2 })
  }
})

test('the end of the old session reaches no replica: the caller is told, and the browser has the session that lives', async (t) => {
  const own = await startRedis()
  t.teardown(() => own.stop())
  const replica = await startRedis({ args: ['--replicaof', own.host, String(own.port)] })
  t.teardown(() => replica.stop())
  const inStep = async (): Promise<boolean> => {
    await own.command('SET', 'mark', '1')
    return Number(await own.command('WAIT', '1', '100')) === 1
  }
  const moves = [
    ['/login', { userId: 'ada' }, 'ada'],
    ['/regenerate', { keep: ['cart', 'count'] }, null]
  ] as const
  for (const [path, body, userId] of moves) {
    await until(inStep, { message: 'the replica is in step' })
    const { app, visitor, other } = await served(t, {
      url: own.url,
      session: { prefix: `durable${path}:`, durable: { replicas: 1, timeout: '1s' } }
    })
    beforeEnding(app, () => {
      replica.pause()
      return false
    })
    const answer = await visitor.post(path, body)
    t.equal(answer.status, 503)
    t.equal(answer.body['code'], 'FLOTILLA_SESSION_ERR_NOT_DURABLE')
    t.equal(answer.headers.get('retry-after'), '5')
    t.equal(answer.setCookie.length, 1)
    t.same((await visitor.get('/data')).body, CART)
    t.equal((await visitor.get('/me')).body['userId'], userId)
    t.same((await other.get('/data')).body, {}, 'the old id')

    const out = await visitor.post('/logout')
    t.equal(out.body['code'], 'FLOTILLA_SESSION_ERR_NOT_DURABLE')
    t.match(out.setCookie[0], /Max-Age=0/, 'ended where it can be: the browser is not to send it again')
    replica.resume()
  }
})

test('what another request writes while a session is regenerated comes along where it is kept', async (t) => {
  for (const encrypt of [false, true]) {
    const { app, visitor, other } = await served(t, {
      url: redis.url,
      session: { encrypt, prefix: `regenerate-${encrypt}:` }
    })
    await visitor.post('/login', { userId: 'ada' })
    other.cookies.clear()
    for (const [name, value] of visitor.cookies) other.cookies.set(name, value)
    beforeEnding(app, async () => {
      await other.post('/update/count')
      await other.post('/set', { secret: true })
      return false
    })
    t.equal((await visitor.post('/regenerate', { keep: ['count', 'nothing'] })).status, 200)
    t.same((await visitor.get('/data')).body, { count: 2 })
    t.equal((await visitor.get('/me')).body['userId'], null)
    t.same((await other.get('/data')).body, {}, 'the old id')
    t.equal(await app.sessions.count('ada'), 0)
  }
})

test('what a handler has not saved yet is kept, changed or removed by a regeneration as it asked', async (t) => {
  const app = await buildApp({ url: redis.url })
  app.post<{ Body: { keep: string[] } }>('/change-and-regenerate', async ({ session, body }) => {
    session.data.count = 5
    session.set('note' as 'count', 7)
    session.delete('cart')
    await session.regenerate(body.keep)
    const kept = { ...session.data }
    session.set('after' as 'count', 1)
    return kept
  })
  const { browser } = await serve(t, app)
  for (const known of [true, false]) {
    const visitor = browser()
    if (known) await visitor.post('/set', { cart: { items: [] }, count: 1, other: 2 })
    const keep = ['count', 'note', 'cart']
    t.same((await visitor.post('/change-and-regenerate', { keep })).body, { count: 5, note: 7 })
    t.same((await visitor.get('/data')).body, { count: 5, note: 7, after: 1 })
  }
})

test('a regeneration that would keep too much leaves the session as it was', async (t) => {
  const app = await buildApp({ url: redis.url, session: { maxSize: '1kb' } })
  app.post('/grow-and-regenerate', async ({ session }) => {
    session.set('large' as 'count', 'y'.repeat(1_100) as never)
    await session.regenerate(['large', 'count'])
    return {}
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', CART)
  const answer = await visitor.post('/grow-and-regenerate')
  t.equal(answer.status, 413)
  t.equal(answer.body['code'], 'FLOTILLA_SESSION_ERR_TOO_LARGE')
  t.equal(answer.setCookie.length, 0)
  t.same((await visitor.get('/data')).body, CART)
})
