import { startRedis } from '@flotilla/testbed'
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

test('data that does not satisfy the schema is neither written nor read', async (t) => {
  for (const asynchronous of [false, true]) {
    const { browser } = await serve(t, { url: redis.url, session: { schema: schemaOf(asynchronous) } })
    const visitor = browser()
    t.equal((await visitor.post('/set', { count: 1 })).status, 200)
    const { status, body } = await visitor.post('/set', { count: 'many' })
    t.equal(status, 500)
    t.equal(body['code'], 'FLOTILLA_SESSION_ERR_INVALID_DATA')
    t.match(body['message'], 'count: must be a number')
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
