import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { flotillaRedis } from '@flotilla/redis'
import { startRedis, until } from '@flotilla/testbed'
import Fastify, { type FastifyInstance } from 'fastify'
import { after, before, test } from 'tap'
import { flotillaSession } from '../src/index.js'
import { SessionTokens } from '../src/store/token.js'
import { buildApp, SECRET } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

/** Resolves with whether the channel spoke in time. */
async function waitFor(channel: string, timeout: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const done = (heard: boolean): void => {
      clearTimeout(timer)
      unsubscribe(channel, listener)
      resolve(heard)
    }
    const listener = (): void => done(true)
    const timer = setTimeout(() => done(false), timeout)
    subscribe(channel, listener)
  })
}

/** What the bus sends by itself: its heartbeat, and requests of one who joins. */
const OF_THE_BUS = new Set(['PUBLISH', 'SPUBLISH'])

/** Names of the commands; of messages on the bus those about sessions. */
async function commandsOf(work: () => Promise<unknown>): Promise<string[]> {
  const { commands } = await redis.countCommands(work)
  return commands
    .filter(([name, ...rest]) => !OF_THE_BUS.has(name!) || rest.join(' ').includes('session.'))
    .map(([name]) => name!)
}

test('no cookie, a bad MAC, a route with sessions off: none', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/login', { userId: 'ada' })
  t.same(await commandsOf(() => browser().get('/data')), [])
  t.same(await commandsOf(() => browser().get('/none')), [])
  const forged = browser()
  forged.cookie = `sid=${new SessionTokens('another secret of thirty-two bytes or more', 'sid').issue().value}`
  t.same(await commandsOf(() => forged.get('/data')), [])
  t.same((await visitor.get('/off')).body, { session: 'undefined' })
  t.same(await commandsOf(() => visitor.get('/off')), [])
})

test("what a route's config says counts also where the plugin comes, or is loaded, after the route", async (t) => {
  for (const order of ['after', 'not awaited', 'in a scope']) {
    const app = Fastify()
    await app.register(flotillaRedis, { url: redis.url, commandTimeout: '10s' })
    const options = { secret: SECRET, cookie: { secure: 'auto' as const } }
    if (order === 'not awaited') void app.register(flotillaSession, options)
    const addConfigured = (scope: FastifyInstance): void => {
      scope.get('/off', { config: { session: false } }, async ({ session }) => ({ session: typeof session }))
      scope.get('/lazy', { config: { session: 'lazy' } }, async () => ({}))
      scope.post('/set', async ({ session }) => ({ ref: session.set('count', 1).ref }))
    }
    if (order !== 'in a scope') addConfigured(app)
    else
      void app.register(async (scope) => {
        addConfigured(scope)
        await scope.register(flotillaSession, options)
      })
    if (order === 'after') await app.register(flotillaSession, options)
    const { browser } = await serve(t, app)
    const visitor = browser()
    t.equal((await visitor.post('/set')).setCookie.length, 1)
    t.same(await commandsOf(() => visitor.get('/off')), [], order)
    t.same(await commandsOf(() => visitor.get('/lazy')), [], order)
    t.same((await visitor.get('/off')).body, { session: 'undefined' })
    t.same((await browser().get('/off')).body, { session: 'undefined' })
  }
})

test('a route that loads on demand: none until it asks', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  t.same(await commandsOf(() => visitor.get('/lazy')), [])
  t.same(await commandsOf(() => visitor.get('/lazy/load')), ['HGETALL'])
  t.same((await visitor.get('/lazy/load')).body, { count: 1 })
  const unloaded = await visitor.get('/lazy/unloaded')
  t.equal(unloaded.body['code'], 'FLOTILLA_SESSION_ERR_NOT_LOADED')
})

test('loaded on demand by several at once: one HGETALL, and the writes of all are saved', async (t) => {
  const app = await buildApp({ url: redis.url })
  app.post('/lazy/parallel', { config: { session: 'lazy' } }, async ({ session }) => {
    const write = async (key: string): Promise<void> => {
      await session.load()
      session.set(key, 1)
    }
    await Promise.all([write('a'), write('b'), session.update('count', (n = 0) => n + 1)])
    return {}
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const client = app.redis as unknown as { hgetall(key: string): Promise<unknown> }
  const hgetall = client.hgetall.bind(client)
  let loads = 0
  client.hgetall = async (key) => {
    const later = loads++ > 0
    const fields = await hgetall(key)
    // What was written once the first had answered would be gone.
    if (later) await new Promise((resolve) => setImmediate(resolve))
    return fields
  }
  const commands = await commandsOf(() => visitor.post('/lazy/parallel'))
  t.equal(commands.filter((name) => name === 'HGETALL').length, 1)
  t.same((await visitor.get('/data')).body, { count: 2, a: 1, b: 1 })
})

test('load: one HGETALL; nothing changed: nothing more; changed: one script', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  for (const user of [undefined, 'ada']) {
    const visitor = browser()
    await visitor.post('/set', { count: 1 })
    if (user) await visitor.post('/login', { userId: user })
    t.same(await commandsOf(() => visitor.get('/data')), ['HGETALL'])
    t.same(
      await commandsOf(() => visitor.post('/set', { count: 1 })),
      ['HGETALL'],
      'the same value is no change'
    )
    await visitor.post('/set', { count: 2 })
    t.same(await commandsOf(() => visitor.post('/set', { count: 3, more: [1] })), ['HGETALL', 'EVALSHA'])
    await visitor.post('/update/count')
    t.same(await commandsOf(() => visitor.post('/update/count')), ['HGETALL', 'EVALSHA'])
    await visitor.post('/logout')
  }
  const fresh = browser()
  t.same(await commandsOf(() => fresh.post('/set', { count: 1 })), ['EVALSHA'], 'a new session')
  t.same(
    await commandsOf(() => browser().post('/login', { userId: 'ada' })),
    ['EVALSHA'],
    'a login of a new visitor'
  )
  t.same(
    await commandsOf(() => fresh.post('/login', { userId: 'ada' })),
    ['HGETALL', 'EVALSHA', 'EVALSHA', 'PUBLISH'],
    'one to begin, one to end, and the others are told'
  )
  t.same(await commandsOf(() => fresh.post('/logout')), ['HGETALL', 'EVALSHA', 'PUBLISH'])
})

test('touch: only when the deadline has become stale, and after the response', async (t) => {
  const { browser } = await serve(t, {
    url: redis.url,
    session: { idleTimeout: '60s', touchInterval: '2s' }
  })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  t.same(await commandsOf(() => visitor.get('/data')), ['HGETALL'])
  let touched = 0
  await until(
    async () => {
      const commands = await commandsOf(async () => {
        await visitor.get('/data')
        await new Promise((resolve) => setImmediate(resolve))
      })
      if (commands.includes('EVALSHA')) touched++
      return touched === 1
    },
    { message: 'a touch' }
  )
  t.same(await commandsOf(() => visitor.get('/data')), ['HGETALL'], 'and not again')
})

test('touch: the response does not wait for it', async (t) => {
  const own = await startRedis()
  t.teardown(() => own.stop())
  const app = await buildApp({
    url: own.url,
    session: { idleTimeout: '10s', touchInterval: 0 }
  })
  app.get('/stop-redis', async ({ session }) => {
    own.pause()
    return { count: session.get('count') }
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  await visitor.get('/data')
  const { commands } = await own.countCommands(async () => {
    const { status, body } = await visitor.get('/stop-redis')
    t.same([status, body], [200, { count: 1 }], 'answered while Redis can do nothing')
    const saved = waitFor('flotilla:session:saved', 5_000)
    own.resume()
    t.ok(await saved, 'and touched when it can')
  })
  t.same(
    commands.map(([name]) => name).filter((name) => !OF_THE_BUS.has(name!)),
    ['HGETALL', 'EVALSHA']
  )
})

test('from memory: none on a hit', async (t) => {
  const { browser } = await serve(t, { url: redis.url, session: { local: { maxAge: '1m' } } })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  t.same(await commandsOf(() => visitor.get('/data')), ['HGETALL'])
  t.same(await commandsOf(() => visitor.get('/data')), [])
  t.same((await visitor.get('/data')).body, { count: 1 })
  const written = await commandsOf(() => visitor.post('/set', { count: 2 }))
  t.same(written, ['EVALSHA', 'PUBLISH'], 'the others are told')
  t.same(await commandsOf(() => visitor.get('/data')), ['HGETALL'])
  t.same((await visitor.get('/data')).body, { count: 2 })
  await visitor.post('/update/count')
  t.same(await commandsOf(() => visitor.post('/update/count')), ['HGETALL', 'EVALSHA', 'PUBLISH'])
  t.same(
    await commandsOf(() => visitor.post('/set', { count: 4 })),
    ['HGETALL'],
    'the same value is no change'
  )
})

test('from memory: a touch tells nobody, for nothing has changed', async (t) => {
  const { browser } = await serve(t, {
    url: redis.url,
    session: { local: { maxAge: '1m' }, idleTimeout: '10s', touchInterval: '300ms' }
  })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  await visitor.get('/data')
  let touched: string[] = []
  await until(
    async () => {
      const saved = waitFor('flotilla:session:saved', 500)
      const commands = await commandsOf(async () => {
        await visitor.get('/data')
        await saved
      })
      if (commands.includes('EVALSHA')) touched = commands
      return touched.length > 0
    },
    { message: 'a touch' }
  )
  t.same(touched, ['EVALSHA'])
})
