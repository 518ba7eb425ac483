import { startRedis } from '@flotilla/testbed'
import type { FastifyInstance } from 'fastify'
import { after, before, test } from 'tap'
import type { StandardSchema } from '../src/index.js'
import { buildApp } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

interface Shape {
  count?: number
}

/** `count`, if there, is a number; what else there is goes. Some libraries answer with a promise. */
const schemaOf = (asynchronous: boolean): StandardSchema<unknown, Shape> => ({
  '~standard': {
    version: 1,
    vendor: 'test',
    validate(value) {
      const { count } = value as Shape
      const result =
        count === undefined || typeof count === 'number'
          ? { value: count === undefined ? {} : { count } }
          : { issues: [{ message: 'must be a number', path: ['count'] }] }
      return asynchronous ? Promise.resolve(result) : result
    }
  }
})

/** Known keys, which must have a value; what else there is goes, as with zod. */
const stripping = (...known: string[]): StandardSchema<unknown, object> => ({
  '~standard': {
    version: 1,
    vendor: 'test',
    validate(value) {
      const data = value as Record<string, unknown>
      const missing = known.find((key) => data[key] === undefined)
      return missing === undefined
        ? { value: Object.fromEntries(known.map((key) => [key, data[key]])) }
        : { issues: [{ message: 'missing', path: [missing] }] }
    }
  }
})

test('data that does not satisfy the schema is neither written nor read', async (t) => {
  for (const asynchronous of [false, true]) {
    const causes: unknown[] = []
    const prepare = (app: FastifyInstance): void => {
      app.addHook('onError', async (_request, _reply, error) => {
        causes.push((error.cause as Error | undefined)?.message)
      })
    }
    const session = { schema: schemaOf(asynchronous) }
    const { browser } = await serve(t, { url: redis.url, session, prepare })
    const visitor = browser()
    t.equal((await visitor.post('/set', { count: 1 })).status, 200)
    const { status, body } = await visitor.post('/set', { count: 'many' })
    t.equal(status, 500)
    t.equal(body['code'], 'FLOTILLA_SESSION_ERR_INVALID_DATA')
    t.notMatch(body['message'], 'count', 'the client is not given the name of the field')
    t.same(causes, ['count: must be a number'])
    t.same((await visitor.get('/data')).body, { count: 1 })
    t.equal((await visitor.post('/update/count')).body['value'], 2)
    const { ref } = (await visitor.get('/me')).body
    const [key] = (await redis.command('KEYS', `*${String(ref)}`)) as string[]
    await redis.command('HSET', key!, 'count', '"text"')
    const dropped = await visitor.get('/data')
    t.equal(dropped.status, 200)
    t.same(dropped.body, {})
  }
})

test('a regeneration may leave out what the schema wants, if the handler then adds it', async (t) => {
  const schema: StandardSchema<unknown, object> = {
    '~standard': {
      version: 1,
      vendor: 'test',
      validate: (value) =>
        'count' in (value as object)
          ? { value: value as object }
          : { issues: [{ message: 'missing', path: ['count'] }] }
    }
  }
  const app = await buildApp({ url: redis.url, session: { schema } })
  app.post<{ Body: { add: boolean } }>('/begin-again', async ({ session, body }) => {
    await session.regenerate(['cart'])
    if (body.add) session.set('count', 2)
    return {}
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { cart: { items: ['book'] }, count: 1 })
  t.equal((await visitor.post('/begin-again', { add: true })).status, 200)
  t.same((await visitor.get('/data')).body, { cart: { items: ['book'] }, count: 2 })
  await visitor.post('/begin-again', { add: false })
  const without = await visitor.get('/data')
  t.same([without.status, without.body], [200, {}], 'not good, and so not read')
})

test('an older version is migrated and saved; a newer one is left alone', async (t) => {
  const old = await serve(t, { url: redis.url })
  const visitor = old.browser()
  await visitor.post('/set', { n: 41 })
  let migrated = 0
  const next = await serve(t, {
    url: redis.url,
    session: {
      schema: schemaOf(false),
      version: 2,
      migrate(data, from) {
        migrated++
        t.equal(from, 1)
        return { count: Number(data['n']) + 1 }
      }
    }
  })
  const same = next.browser()
  same.cookie = visitor.cookie
  t.same((await same.get('/data')).body, { count: 42 })
  t.same((await same.get('/data')).body, { count: 42 })
  t.equal(migrated, 1)

  // A rolling update: the old instance meets what the new one wrote.
  t.same((await visitor.get('/data')).body, { count: 42 }, 'readable where nothing forbids it')
  const strict = await serve(t, {
    url: redis.url,
    session: {
      schema: {
        '~standard': { version: 1, vendor: 'test', validate: () => ({ issues: [{ message: 'never' }] }) }
      }
    }
  })
  const stranger = strict.browser()
  stranger.cookie = visitor.cookie
  const answer = await stranger.get('/me')
  t.equal(answer.body['readOnly'], true)
  t.equal(answer.setCookie.length, 0)
  t.same((await same.get('/data')).body, { count: 42 }, 'not dropped')
})

test('an old instance keeps what only a newer version knows: in a read, a write and a login', async (t) => {
  const next = await serve(t, { url: redis.url, session: { schema: stripping('a', 'b'), version: 2 } })
  const visitor = next.browser()
  await visitor.post('/set', { a: 1, b: 2 })
  const old = await serve(t, { url: redis.url, session: { schema: stripping('a') } })
  const stranger = old.browser()
  stranger.cookie = visitor.cookie
  t.equal((await stranger.get('/data')).status, 200)
  t.same((await visitor.get('/data')).body, { a: 1, b: 2 })
  t.equal((await stranger.post('/set', { a: 3 })).status, 200)
  t.same((await visitor.get('/data')).body, { a: 3, b: 2 })
  await stranger.post('/login', { userId: 'ada' })
  visitor.cookie = stranger.cookie
  t.same((await visitor.get('/data')).body, { a: 3, b: 2 })
  const [key] = (await redis.command(
    'KEYS',
    `*${String((await visitor.get('/me')).body['ref'])}`
  )) as string[]
  t.equal(String(await redis.command('HGET', key!, '@')).split(' ')[7], '2', 'still of the newer version')
})

test('what is validated is what is stored, not what JSON makes of it afterwards', async (t) => {
  const schema: StandardSchema<unknown, object> = {
    '~standard': {
      version: 1,
      vendor: 'test',
      validate(value) {
        const { at } = value as { at?: unknown }
        return at === undefined || at instanceof Date
          ? { value: value as object }
          : { issues: [{ message: 'must be a Date', path: ['at'] }] }
      }
    }
  }
  const app = await buildApp({ url: redis.url, session: { schema } })
  app.post<{ Params: { how: string } }>('/date/:how', async ({ session, params }) => {
    if (params.how === 'set') session.set('at', new Date(0))
    if (params.how === 'update') await session.update('at', () => new Date(0))
    if (params.how === 'login') await session.set('at', new Date(0)).login('ada')
    return {}
  })
  app.post<{ Params: { how: string } }>('/method/:how', async ({ session, params }) => {
    const value = { n: 1, method: () => 2 }
    if (params.how === 'set') session.set('value', value)
    if (params.how === 'update') await session.update('value', () => value)
    if (params.how === 'login') await session.set('value', value).login('ada')
    return {}
  })
  const { browser } = await serve(t, app)
  for (const how of ['set', 'update', 'login']) {
    const visitor = browser()
    await visitor.post('/set', { count: 1 })
    const { status, body } = await visitor.post(`/date/${how}`)
    t.same([status, body['code']], [500, 'FLOTILLA_SESSION_ERR_INVALID_DATA'], how)
    t.same((await visitor.get('/data')).body, { count: 1 })
    t.equal((await visitor.post(`/method/${how}`)).status, 200, how)
    t.same((await visitor.get('/data')).body, { count: 1, value: { n: 1 } })
  }
})
