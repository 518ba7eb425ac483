import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { isPersonal } from '@flotilla/core'
import { flotillaRedis } from '@flotilla/redis'
import { startRedis, until } from '@flotilla/testbed'
import Fastify, { type FastifyContextConfig, type FastifyRequest } from 'fastify'
import { after, before, test } from 'tap'
import { flotillaSession } from '../src/index.js'
import { addRoutes, buildApp, SECRET } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

test('a wrong option fails register, naming it, before anything is opened', async (t) => {
  const wrong: [Record<string, unknown>, RegExp][] = [
    [{}, /'secret'/],
    [{ secret: 'short' }, /'secret'.*32 bytes/],
    [{ secret: SECRET, idleTimeout: 'soon' }, /'idleTimeout'/],
    [{ secret: SECRET, idleTimeout: '2h', absoluteTimeout: '1h' }, /'absoluteTimeout'/],
    [{ secret: SECRET, cookie: 'sid' }, /'cookie'/],
    [{ secret: SECRET, cookie: { name: '__Host-sid' } }, /'cookie.name'/],
    [{ secret: SECRET, cookie: { maxAge: 5 } }, /'cookie.maxAge'.*persistent/],
    [{ secret: SECRET, cookie: { samesite: 'lax' } }, /unknown option 'cookie.samesite'.*sameSite/],
    [{ secret: SECRET, cookie: { sameSite: 'Lax' } }, /'cookie.sameSite'.*'lax'/],
    [{ secret: SECRET, cookie: { path: 1 } }, /'cookie.path'/],
    [{ secret: SECRET, cookie: { domain: '' } }, /'cookie.domain'/],
    [{ secret: SECRET, cookie: { partitioned: 'yes' } }, /'cookie.partitioned'/],
    [{ secret: SECRET, cookie: { priority: 'urgent' } }, /'cookie.priority'/],
    [{ secret: SECRET, cookie: { persistent: 1 } }, /'cookie.persistent'/],
    [{ secret: SECRET, cookie: { secure: 'Auto' } }, /'cookie.secure'/],
    [
      { secret: SECRET, cookie: { secure: false, sameSite: 'none' } },
      /'cookie.sameSite' .* cookie.secure true/
    ],
    [
      { secret: SECRET, cookie: { secure: false, partitioned: true } },
      /'cookie.partitioned' .* cookie.secure true/
    ],
    [{ secret: SECRET, renew: { every: 'often' } }, /'renew.every'/],
    [{ secret: SECRET, renew: { every: '1s', grace: '11m' } }, /'renew.grace'/],
    [{ secret: SECRET, onReuse: 'logout' }, /'onReuse'/],
    [{ secret: SECRET, renew: { every: '1s', Grace: '1s' } }, /unknown option 'renew.Grace'/],
    [{ secret: SECRET, local: { maxAge: '1h' } }, /'local.maxAge'/],
    [{ secret: SECRET, local: { maxage: '1s' } }, /unknown option 'local.maxage'/],
    [{ secret: SECRET, durable: { replica: 1 } }, /unknown option 'durable.replica'/],
    [{ secret: SECRET, schema: {} }, /'schema'/],
    [{ secret: SECRET, clearSiteData: 'cookies' }, /'clearSiteData'/],
    [{ secret: SECRET, prefix: 'a{b}' }, /'prefix'/],
    [{ secret: SECRET, onOutage: 'ignore' }, /'onOutage'/],
    [{ secret: SECRET, saveUninitialized: true }, /unknown option 'saveUninitialized'/]
  ]
  for (const [options, message] of wrong) {
    const app = Fastify()
    const error = await t.rejects(
      async () => {
        await app.register(flotillaSession, options as never)
      },
      { code: 'FLOTILLA_SESSION_ERR_OPTION', message }
    )
    t.notMatch(String(error), 'short')
    await app.close()
  }
  const app = Fastify()
  await t.rejects(
    async () => {
      await app.register(flotillaSession, { secret: SECRET })
    },
    { code: 'FLOTILLA_REDIS_ERR_NO_CLIENT', message: /@flotilla\/session/ }
  )
  await app.close()
})

test("a route's wrong config fails its declaration, naming the route", async (t) => {
  const app = await buildApp({ url: redis.url })
  t.teardown(() => app.close())
  for (const session of ['Lazy', true, null, { lazy: true }] as never[]) {
    t.throws(() => app.get('/wrong', { config: { session } }, async () => 'never'), {
      code: 'FLOTILLA_SESSION_ERR_OPTION',
      message: /route GET \/wrong.*config\.session.*false or 'lazy'/
    })
  }
})

test('routes that are declared before the plugin has loaded have their sessions, as they ask', async (t) => {
  const app = Fastify()
  void app.register(flotillaRedis, { url: redis.url, commandTimeout: '10s' })
  void app.register(flotillaSession, { secret: SECRET, cookie: { secure: 'auto' } })
  addRoutes(app)
  app.get('/wrong', { config: { session: 'Lazy' as never } }, async () => 'never')
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const { commands } = await redis.countCommands(async () => {
    t.same((await visitor.get('/off')).body, { session: 'undefined' })
    t.equal((await visitor.get('/lazy')).status, 200)
  })
  t.same(commands, [])
  t.same((await visitor.get('/lazy/load')).body, { count: 1 })
  t.equal((await visitor.get('/lazy/unloaded')).body['code'], 'FLOTILLA_SESSION_ERR_NOT_LOADED')
  t.match((await visitor.get('/wrong')).body, { code: 'FLOTILLA_SESSION_ERR_OPTION', message: /GET \/wrong/ })
  t.match((await browser().get('/wrong')).body, 'never')
})

test('twice in one scope is refused; side by side they are strangers, whatever they share', async (t) => {
  const options = { secret: SECRET, cookie: { secure: 'auto' as const } }
  const twice = Fastify()
  t.teardown(() => twice.close())
  await twice.register(flotillaRedis, { url: redis.url })
  await twice.register(flotillaSession, options)
  await t.rejects(
    async () => {
      await twice.register(flotillaSession, options)
    },
    { code: 'FLOTILLA_SESSION_ERR_REGISTERED' }
  )

  const app = Fastify()
  await app.register(flotillaRedis, { url: redis.url, commandTimeout: '10s' })
  await app.register(
    async (scope) => {
      await scope.register(flotillaSession, options)
      addRoutes(scope)
    },
    { prefix: '/shop' }
  )
  await app.register(
    async (scope) => {
      await scope.register(flotillaSession, { ...options, cookie: { secure: 'auto', name: 'admin' } })
      addRoutes(scope)
    },
    { prefix: '/admin' }
  )
  await app.register(
    async (scope) => {
      await scope.register(flotillaSession, {
        ...options,
        secret: 'another secret of thirty-two bytes or more',
        cookie: { secure: 'auto', name: 'other' }
      })
      addRoutes(scope)
    },
    { prefix: '/other' }
  )
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/shop/login', { userId: 'ada' })
  await visitor.post('/admin/set', { count: 1 })
  await visitor.post('/other/set', { count: 2 })
  t.same([...visitor.cookies.keys()].sort(), ['admin', 'other', 'sid'])
  t.same((await visitor.get('/admin/data')).body, { count: 1 })
  t.same((await visitor.get('/other/data')).body, { count: 2 })
  t.same((await visitor.get('/shop/data')).body, {})
  t.equal((await visitor.get('/shop/me')).body['userId'], 'ada')
  // One's cookie under another's name.
  const thief = browser()
  for (const name of ['admin', 'other']) thief.cookies.set(name, visitor.cookies.get('sid')!)
  t.equal((await thief.get('/admin/me')).body['userId'], null)
  t.equal((await thief.get('/other/me')).body['userId'], null)
})

test('outside a request: create, get, change, end', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url })
  const session = await app.sessions.create(
    'ada',
    { count: 1 },
    { label: 'import', ip: '::1', userAgent: 'cron' }
  )
  t.equal(session.userId, 'ada')
  const visitor = browser()
  visitor.cookie = `sid=${session.id!}`
  t.same((await visitor.get('/data')).body, { count: 1 })
  t.match((await app.sessions.list('ada'))[0], {
    label: 'import',
    ip: '::1',
    userAgent: 'cron',
    ref: session.ref
  })
  const same = (await app.sessions.get(session.id!))!
  same.set('count', 5)
  t.same((await visitor.get('/data')).body, { count: 1 }, 'not saved by itself')
  await same.save()
  t.equal(await same.update('count', (n = 0) => n + 1), 6)
  t.same((await visitor.get('/data')).body, { count: 6 })
  await same.destroy()
  t.equal(same.id, undefined)
  t.equal(await app.sessions.get(session.id!), undefined)
  for (const bad of ['', 'nonsense', session.id!.slice(0, -1), 7 as unknown as string]) {
    t.equal(await app.sessions.get(bad), undefined)
  }
  const anonymous = await app.sessions.create(undefined, { count: 9 })
  t.equal(anonymous.userId, undefined)
  await anonymous.login('bob')
  t.equal(await app.sessions.count('bob'), 1)
  t.notMatch(`${JSON.stringify(anonymous)}${(await import('node:util')).inspect(anonymous)}`, anonymous.id!)
})

test('after hijack, and after the response, what is set needs a save of its own', async (t) => {
  const lines: string[] = []
  const app = await buildApp({
    url: redis.url,
    fastify: { logger: { level: 'warn', stream: { write: (line: string) => void lines.push(line) } } }
  })
  app.get('/hijack', async ({ session }, reply) => {
    session.set('count', 10)
    await session.save()
    reply.hijack()
    reply.raw.end('raw')
  })
  let later: Promise<void> | undefined
  app.get('/later', async ({ session }, reply) => {
    reply.raw.once('finish', () => {
      later = (async () => {
        await new Promise((resolve) => setImmediate(resolve))
        session.set('count', 11)
        await session.save()
      })()
    })
    return 'sent'
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  t.equal((await visitor.get('/hijack')).status, 200)
  t.same((await visitor.get('/data')).body, { count: 10 })
  await visitor.get('/later')
  await until(() => later !== undefined, { message: 'the work after the response' })
  await later
  t.same((await visitor.get('/data')).body, { count: 11 })
  t.match(lines.join(''), 'after its response had been sent')
})

test('reading the session marks the response as personal; a request that does not look stays public', async (t) => {
  const app = await buildApp({ url: redis.url })
  const personal: boolean[] = []
  app.addHook('onResponse', async (request) => void personal.push(isPersonal(request)))
  app.get('/looks', async ({ session }) => ({ user: session.userId ?? null }))
  app.get('/looks-not', async () => ({}))
  const { browser } = await serve(t, app)
  await browser().get('/looks')
  await browser().get('/looks-not')
  await until(() => personal.length === 2, { message: 'both are done' })
  t.same(personal, [true, false])
})

test('what happens is told on diagnostics channels and on the bus', async (t) => {
  const events: string[] = []
  for (const name of ['loaded', 'created', 'saved', 'revoked', 'renewed']) {
    const note = (): void => void events.push(name)
    subscribe(`flotilla:session:${name}`, note)
    t.teardown(() => unsubscribe(`flotilla:session:${name}`, note))
  }
  const { app, browser } = await serve(t, { url: redis.url })
  const heard: unknown[] = []
  app.bus.subscribe('session.revoked', (payload) => heard.push(payload))
  await app.bus.ready()
  const visitor = browser()
  const { ref } = (await visitor.post('/login', { userId: 'ada' })).body
  await visitor.post('/set', { count: 1 })
  await visitor.post('/renew')
  await visitor.post('/revoke', { ref })
  await until(() => heard.length > 0, { message: 'the bus told' })
  t.strictSame(heard, [{ refs: [ref], userId: 'ada' }])
  t.same([...new Set(events)].sort(), ['created', 'loaded', 'renewed', 'revoked', 'saved'])
})

test('a plain ioredis client of the user works, and stays open when the app closes', async (t) => {
  const client = redis.client()
  t.teardown(() => client.disconnect())
  const app = Fastify()
  await app.register(flotillaSession, { secret: SECRET, redis: client, cookie: { secure: 'auto' } })
  addRoutes(app)
  const response = await app.inject({ method: 'POST', url: '/set', payload: { count: 1 } })
  t.equal(response.statusCode, 200)
  await app.close()
  t.equal(await client.ping(), 'PONG')
})

test('require() gets the plugin as well', async (t) => {
  const { createRequire } = await import('node:module')
  const { default: plugin, flotillaSession: named } = createRequire(import.meta.url)('@flotilla/session') as {
    default: unknown
    flotillaSession: unknown
  }
  t.type(plugin, 'function')
  t.equal(plugin, named)
})

test('a request that reads its session is personal, unless its route says that the response is shared', async (t) => {
  const app = Fastify({ forceCloseConnections: true })
  const personal: boolean[] = []
  const seen = async (request: FastifyRequest): Promise<object> => {
    const { userId } = request.session
    personal.push(isPersonal(request))
    return { userId: userId ?? null }
  }
  const shared = { config: { cache: { shared: true } } as FastifyContextConfig }
  await app.register(flotillaRedis, { url: redis.url })
  await app.register(flotillaSession, { secret: SECRET, cookie: { secure: 'auto' } })
  app.get('/own', seen)
  app.get('/not-shared', { config: { cache: { shared: false } } as FastifyContextConfig }, seen)
  app.get('/not-cached', { config: { cache: false } as FastifyContextConfig }, seen)
  app.get('/shared', shared, seen)
  const { browser } = await serve(t, app)
  for (const url of ['/own', '/not-shared', '/not-cached', '/shared']) await browser().get(url)
  t.same(personal, [true, true, true, false])

  // Declared before the plugin has loaded.
  const early = Fastify({ forceCloseConnections: true })
  early.get('/shared', shared, seen)
  early.get('/own', seen)
  await early.register(flotillaRedis, { url: redis.url })
  await early.register(flotillaSession, { secret: SECRET, cookie: { secure: 'auto' } })
  t.teardown(() => early.close())
  for (const url of ['/own', '/shared']) await early.inject(url)
  t.same(personal.splice(4), [true, false])
})
