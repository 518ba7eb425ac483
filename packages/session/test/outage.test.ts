import { startRedis, until } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import { buildApp } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

test("'fail': 503 with Retry-After, no cookie touched, and back when Redis is back", async (t) => {
  const own = await startRedis()
  t.teardown(() => own.stop())
  let outages = 0
  const app = await buildApp({
    url: own.url,
    redis: { commandTimeout: '500ms' },
    session: { retryAfter: '7s' },
    prepare(root) {
      root.setErrorHandler((error: Error & { statusCode?: number }, _request, reply) => {
        if (error.statusCode === 503) outages++
        // One that looks at nothing but the status.
        return reply.code(error.statusCode ?? 500).send({ own: true })
      })
    }
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/login', { userId: 'ada' })
  const cookie = visitor.cookie
  own.pause()
  for (const send of [
    () => visitor.get('/data'),
    () => visitor.post('/set', { count: 1 }),
    () => visitor.post('/logout'),
    () => browser().post('/set', { count: 1 }),
    () => browser().post('/login', { userId: 'ada' })
  ]) {
    const from = performance.now()
    const { status, headers, setCookie } = await send()
    t.equal(status, 503)
    t.equal(headers.get('retry-after'), '7')
    t.equal(setCookie.length, 0)
    t.ok(performance.now() - from < 5_000, 'in bounded time')
  }
  t.equal(outages, 5)
  t.equal((await browser().get('/data')).status, 200, 'a visitor without a cookie needs no Redis')
  t.equal((await visitor.get('/off')).status, 200)
  own.resume()
  await until(async () => (await visitor.get('/me')).body['userId'] === 'ada', {
    message: 'the session is back'
  })
  t.equal(visitor.cookie, cookie)
})

test("'anonymous': an empty session that cannot be written", async (t) => {
  const own = await startRedis()
  t.teardown(() => own.stop())
  const app = await buildApp({
    url: own.url,
    redis: { commandTimeout: '500ms' },
    session: { onOutage: 'anonymous' }
  })
  app.get('/mutate', async ({ session }) => {
    ;(session.data as Record<string, unknown>)['count'] = 1
    return 'unreachable'
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/login', { userId: 'ada' })
  await visitor.post('/set', { count: 1 })
  own.pause()
  const me = await visitor.get('/me')
  t.equal(me.status, 200)
  t.equal(me.body['readOnly'], true)
  t.equal(me.body['userId'], null)
  const data = await visitor.get('/data')
  t.same(data.body, {})
  t.equal(data.setCookie.length, 0)
  for (const path of ['/set', '/login', '/logout', '/regenerate', '/update/count', '/renew']) {
    const { status, headers, setCookie, body } = await visitor.post(path, { userId: 'ada' })
    t.equal(status, 503, path)
    t.equal(body['code'], 'FLOTILLA_SESSION_ERR_READ_ONLY')
    t.equal(headers.get('retry-after'), '5')
    t.equal(setCookie.length, 0)
  }
  t.equal((await visitor.get('/mutate')).status, 500, 'frozen')
  own.resume()
  await until(async () => (await visitor.get('/me')).body['userId'] === 'ada', {
    message: 'the session is back'
  })
  t.same((await visitor.get('/data')).body, { count: 1 })
})

test('a touch that was asked for tells when it could not be made, and when there was nothing to touch', async (t) => {
  const own = await startRedis()
  t.teardown(() => own.stop())
  for (const onOutage of ['fail', 'anonymous'] as const) {
    const app = await buildApp({
      url: own.url,
      redis: { commandTimeout: '500ms' },
      session: { onOutage, prefix: `${onOutage}:` }
    })
    app.post<{ Body: { pause?: boolean; remove?: boolean } }>('/touch', async ({ session, body }) => {
      if (body.pause) own.pause()
      if (body.remove)
        for (const key of (await own.command('KEYS', '*')) as string[]) await own.command('DEL', key)
      await session.touch()
      return { isNew: session.isNew }
    })
    const { browser } = await serve(t, app)
    const visitor = browser()
    t.same((await visitor.post('/touch')).body, { isNew: true }, 'nothing yet')
    await visitor.post('/set', { count: 1 })
    await visitor.post('/touch')
    const { commands } = await own.countCommands(() => visitor.post('/touch'))
    t.same(
      commands.map(([name]) => name),
      ['HGETALL', 'EVALSHA']
    )
    const lost = await visitor.post('/touch', { pause: true })
    t.equal(lost.status, 503)
    t.equal(lost.body['code'], 'FLOTILLA_SESSION_ERR_UNAVAILABLE')
    t.equal(lost.headers.get('retry-after'), '5')
    if (onOutage === 'anonymous') {
      t.equal((await visitor.post('/touch')).body['code'], 'FLOTILLA_SESSION_ERR_READ_ONLY')
    }
    own.resume()
    await until(async () => (await visitor.post('/touch')).body['isNew'] === false, { message: 'it is back' })
    const gone = await visitor.post('/touch', { remove: true })
    t.same([gone.status, gone.body], [200, { isNew: true }], 'nothing is brought back')
    t.same(await own.command('KEYS', `${onOutage}:*`), [])
  }
})

test('a load on demand that failed may be asked for again', async (t) => {
  const own = await startRedis()
  t.teardown(() => own.stop())
  const app = await buildApp({ url: own.url, redis: { commandTimeout: '500ms' } })
  app.get('/lazy/again', { config: { session: 'lazy' } }, async ({ session }) => {
    own.pause()
    const failed = await Promise.allSettled([session.load(), session.load()])
    own.resume()
    await until(async () => (await own.command('PING')) === 'PONG', { message: 'Redis is back' })
    await session.load()
    return { failed: failed.map(({ status }) => status), data: session.data }
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const { body } = await visitor.get('/lazy/again')
  t.same(body, { failed: ['rejected', 'rejected'], data: { count: 1 } })
})

test('durable without enough replicas: the caller is told, no cookie is set', async (t) => {
  const { app, browser } = await serve(t, {
    url: redis.url,
    session: { durable: { replicas: 1, timeout: '200ms' } }
  })
  const visitor = browser()
  const { status, body, setCookie, headers } = await visitor.post('/login', { userId: 'ada' })
  t.equal(status, 503)
  t.equal(body['code'], 'FLOTILLA_SESSION_ERR_NOT_DURABLE')
  t.equal(headers.get('retry-after'), '5')
  t.equal(setCookie.length, 0)
  await t.rejects(app.sessions.create('bob', { count: 1 }), { code: 'FLOTILLA_SESSION_ERR_NOT_DURABLE' })
  t.equal((await browser().post('/set', { count: 1 })).status, 200, 'plain writes do not wait')
})

test('the app closes in time while Redis is paused', async (t) => {
  const own = await startRedis()
  t.teardown(() => own.stop())
  const { app, browser } = await serve(t, {
    url: own.url,
    session: { idleTimeout: '10s', touchInterval: 0 },
    redis: { commandTimeout: '500ms' }
  })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  await visitor.get('/data')
  own.pause()
  const from = performance.now()
  await app.close()
  t.ok(performance.now() - from < 5_000)
  own.resume()
})

test('a long outage is told at its beginning and when its cause changes, not for each request', async (t) => {
  const own = await startRedis()
  t.teardown(() => own.stop())
  for (const onOutage of ['fail', 'anonymous'] as const) {
    const lines: { msg: string; level: number; suppressed?: number; err?: { message: string } }[] = []
    const { browser } = await serve(t, {
      url: own.url,
      redis: { commandTimeout: '500ms' },
      session: { onOutage, prefix: `${onOutage}:` },
      fastify: {
        logger: { level: 'warn', stream: { write: (line: string) => void lines.push(JSON.parse(line)) } }
      }
    })
    const told = () => lines.filter(({ msg }) => msg.includes('cannot be asked'))
    const visitor = browser()
    await visitor.post('/set', { count: 1 })
    await own.command('CONFIG', 'SET', 'maxmemory', '1')
    for (let n = 0; n < 5; n++) t.equal((await visitor.post('/set', { count: n + 2 })).status, 503)
    t.equal(told().length, 1)
    t.match(told()[0], { level: 40, err: { message: /OOM/ } })
    const errors = lines.filter(({ level }) => level === 50)
    t.equal(errors.length, 5, "Fastify's own line for each")
    for (const { err } of errors) t.match(err?.message, /OOM/, 'which names the cause')
    await own.command('CONFIG', 'SET', 'maxmemory', '0')
    own.pause()
    await visitor.get('/data')
    own.resume()
    t.equal(told().length, 2)
    t.match(told()[1], { suppressed: 4 })
    await until(async () => (await own.command('PING')) === 'PONG', { message: 'Redis is back' })
  }
})
