import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { startRedis, until } from '@flotilla/testbed'
import type { FastifyInstance } from 'fastify'
import { after, before, test } from 'tap'
import type { SessionOptions } from '../src/index.js'
import { buildApp } from './support/app.js'
import type { Browser } from './support/browser.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

/** The key of a visitor's session. */
async function keyOf(browser: Browser): Promise<string> {
  const { body } = await browser.get('/me')
  const [key] = (await redis.command('KEYS', `*${String(body['ref'])}`)) as string[]
  return key!
}

/** An app that keeps what the log has to say about each error. */
async function appWithCauses(session: Partial<SessionOptions> = {}) {
  const causes: string[] = []
  const prepare = (app: FastifyInstance): void => {
    app.addHook('onError', async (_request, _reply, error) => {
      causes.push((error.cause as Error | undefined)?.message ?? '')
    })
  }
  return { app: await buildApp({ url: redis.url, session, prepare }), causes }
}

test('values of all JSON types come back; nested changes and removals are saved', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  const all = {
    text: 'ä"\\\u2028',
    zero: 0,
    no: false,
    nothing: null,
    list: [1, [2]],
    deep: { a: { b: 1 } },
    '@odd': 1,
    '': undefined
  }
  t.equal((await visitor.post('/set', { ...all, '': undefined })).status, 200)
  t.same((await visitor.get('/data')).body, {
    text: 'ä"\\\u2028',
    zero: 0,
    no: false,
    nothing: null,
    list: [1, [2]],
    deep: { a: { b: 1 } },
    '@odd': 1
  })
  await visitor.post('/push', { items: ['a'] })
  await visitor.post('/push', { items: ['b'] })
  t.same((await visitor.get('/get/cart')).body, { value: { items: ['a', 'b'] } })
})

test('only what changed is written', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/set', { big: 'x'.repeat(1_000), cart: { items: [] } })
  const { commands } = await redis.countCommands(() => visitor.post('/push', { items: ['a'] }))
  const script = commands.find(([name]) => name === 'EVALSHA')!
  t.ok(script.includes('{"items":["a"]}'))
  t.notOk(script.some((argument) => argument.includes('xxx')))
})

test('what JSON cannot hold fails the request, naming the field', async (t) => {
  const { app, causes } = await appWithCauses()
  const cycle: { self?: unknown } = {}
  cycle.self = cycle
  const bad: Record<string, unknown> = {
    bigint: 1n,
    cycle,
    function: () => 1,
    symbol: Symbol('s'),
    map: new Map(),
    set: new Set(),
    proto: JSON.parse('{"deep":{"__proto__":{"admin":true}}}') as unknown,
    inherited: { constructor: { prototype: {} } },
    thrower: {
      toJSON() {
        throw new Error('no')
      }
    }
  }
  app.get<{ Params: { which: string } }>('/bad/:which', async ({ session, params }) => {
    session.set(params.which, bad[params.which])
    return 'unreachable'
  })
  const { browser } = await serve(t, app)
  for (const which of Object.keys(bad)) {
    const answer = await browser().get(`/bad/${which}`)
    t.equal(answer.status, 500)
    t.equal(answer.body['code'], 'FLOTILLA_SESSION_ERR_UNSERIALISABLE')
    t.notMatch(answer.body['message'], which, 'the client is not given the name of the field')
    t.match(causes.pop(), `field '${which}'`)
    t.equal(answer.setCookie.length, 0)
  }
})

test('a session past maxSize is refused, naming the largest field, and stays as it was', async (t) => {
  const { app, causes } = await appWithCauses({ maxSize: '1kb' })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { small: 'x'.repeat(100) })
  const answer = await visitor.post('/set', { large: 'y'.repeat(1_000) })
  t.equal(answer.status, 413)
  t.equal(answer.body['code'], 'FLOTILLA_SESSION_ERR_TOO_LARGE')
  t.notMatch(answer.body['message'], /large|\d/, 'the client is given neither the field nor the limit')
  t.match(causes, [/of 1024 bytes; the largest field is 'large' \(10\d\d bytes\)/])
  t.same(Object.keys((await visitor.get('/data')).body), ['small'])
})

test('keys that could poison are refused; members of the session cannot be assigned', async (t) => {
  const app = await buildApp({ url: redis.url })
  app.post<{ Body: { key: string } }>('/key', async ({ session, body }) => session.set(body.key, {}).data)
  app.post<{ Body: { key: string } }>('/data/key', async ({ session, body }) => {
    Object.defineProperty(session.data, body.key, { value: {}, enumerable: true })
    return {}
  })
  app.get('/reserved', async ({ session }) => {
    ;(session as unknown as Record<string, unknown>)['userId'] = 'me'
    return 'unreachable'
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  for (const key of ['', '__proto__', 'constructor', 'prototype']) {
    for (const url of ['/key', '/data/key']) {
      const { status, body } = await visitor.post(url, { key })
      t.match({ status, body }, { status: 500, body: { code: 'FLOTILLA_SESSION_ERR_KEY' } }, `${url} ${key}`)
    }
    t.same((await visitor.get('/data')).body, { count: 1 }, 'the session is as it was')
  }
  const reserved = await browser().get('/reserved')
  t.equal(reserved.body['code'], 'FLOTILLA_SESSION_ERR_RESERVED')
  t.match(reserved.body['message'], /login/)
  t.same(Object.keys((await browser().get('/data')).body), [])
})

test('an update takes the keys that set takes, and those that every object has are keys like others', async (t) => {
  const app = await buildApp({ url: redis.url })
  let runs = 0
  app.post<{ Body: { key: string; whole: boolean } }>('/update', async ({ session, body }) => {
    if (body.whole) void session.data
    return {
      value: await session.update(body.key, (n) => {
        runs++
        return ((n as number | undefined) ?? 0) + 1
      })
    }
  })
  const { browser } = await serve(t, app)
  for (const known of [false, true]) {
    const visitor = browser()
    if (known) await visitor.post('/set', { count: 1 })
    for (const key of ['', '__proto__', 'constructor', 'prototype']) {
      t.equal((await visitor.post('/update', { key })).body['code'], 'FLOTILLA_SESSION_ERR_KEY')
    }
    t.equal(runs, 0)
    for (const [n, whole] of [
      [1, false],
      [2, true]
    ]) {
      for (const key of ['valueOf', 'toString', 'hasOwnProperty']) {
        t.same((await visitor.post('/update', { key, whole })).body, { value: n }, key)
      }
    }
    t.equal(runs, 6)
    runs = 0
    const { body } = await visitor.get('/data')
    t.same(Object.keys(body).sort(), [...(known ? ['count'] : []), 'hasOwnProperty', 'toString', 'valueOf'])
    for (const key of ['hasOwnProperty', 'toString', 'valueOf']) t.equal(body[key], 2)
  }
})

test('data is also there as properties, for plugins that look there', async (t) => {
  const app = await buildApp({ url: redis.url })
  app.get('/properties', async (request) => {
    const session = request.session as unknown as Record<string, unknown>
    session['a'] = { n: 1 }
    session['b'] = 2
    ;(session['a'] as { n: number }).n++
    delete session['b']
    return {
      keys: Object.keys(session),
      has: 'a' in session,
      gone: 'b' in session,
      json: JSON.stringify(session)
    }
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  t.same((await visitor.get('/properties')).body, {
    keys: ['a'],
    has: true,
    gone: false,
    json: '{"a":{"n":2}}'
  })
  t.same((await visitor.get('/data')).body, { a: { n: 2 } })
})

test('a session that Redis holds differently than we wrote it is dropped and logged, never a 500', async (t) => {
  const damage: Record<string, (key: string) => Promise<unknown>> = {
    'a field that is not JSON': (key) => redis.command('HSET', key, 'count', '{broken'),
    'a field that would poison': (key) => redis.command('HSET', key, 'count', '{"__proto__":{"admin":true}}'),
    'two values in one field': (key) => redis.command('HSET', key, 'count', '1,2'),
    'a field of another name': (key) => redis.command('HSET', key, '__proto__', '1'),
    'no meta field': (key) => redis.command('HDEL', key, '@'),
    'a meta field of another make': (key) => redis.command('HSET', key, '@', 'hello'),
    'a meta field with a time that is none': async (key) => {
      const meta = String(await redis.command('HGET', key, '@'))
      await redis.command('HSET', key, '@', meta.replace(/^(2 \d+) \d+/, '$1 9999999999999999'))
    },
    'a user without a user hash': (key) => redis.command('HSET', key, '@u', 'admin'),
    'no verifier field': (key) => redis.command('HDEL', key, '@v'),
    'a verifier field of another make': (key) => redis.command('HSET', key, '@v', 'nonsense'),
    'a key of another type': async (key) => {
      await redis.command('DEL', key)
      await redis.command('SET', key, 'text')
    }
  }
  for (const [name, hurt] of Object.entries(damage)) {
    await t.test(name, async (t) => {
      const lines: string[] = []
      const { browser } = await serve(t, {
        url: redis.url,
        fastify: { logger: { level: 'error', stream: { write: (line: string) => void lines.push(line) } } }
      })
      let dropped = 0
      const count = (): void => void dropped++
      subscribe('flotilla:session:dropped', count)
      t.teardown(() => unsubscribe('flotilla:session:dropped', count))
      const visitor = browser()
      await visitor.post('/set', { count: 1, other: 2 })
      const key = await keyOf(visitor)
      await hurt(key)
      const answer = await visitor.get('/data')
      t.equal(answer.status, 200)
      t.same(answer.body, {})
      t.equal(dropped, 1)
      t.match(lines.join(''), 'was dropped')
      await until(async () => (await redis.command('EXISTS', key)) === 0, { message: 'it is removed' })
      t.equal((await visitor.post('/set', { count: 2 })).setCookie.length, 1, 'and a new one begins')
    })
  }
})

test('damage in a field that nobody reads harms nobody: it is found when the field is read', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/set', { big: 'x'.repeat(10_000), count: 1 })
  await redis.command('HSET', await keyOf(visitor), 'count', '{broken')
  t.match((await visitor.get('/get/big')).body['value'], /^x+$/)
  const { status, body } = await visitor.get('/get/count')
  t.equal(status, 200)
  t.same(body, { value: null })
})

test('a session deleted in Redis by hand is gone, and is not brought back by a save under way', async (t) => {
  const app = await buildApp({ url: redis.url })
  let proceed = (): void => {}
  let entered = (): void => {}
  const inside = new Promise<void>((resolve) => (entered = resolve))
  app.get('/slow', async ({ session }) => {
    session.set('late', true)
    entered()
    await new Promise<void>((resolve) => (proceed = resolve))
    return 'done'
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const key = await keyOf(visitor)
  const slow = visitor.get('/slow')
  await inside
  await redis.command('DEL', key)
  proceed()
  const answer = await slow
  t.equal(answer.status, 200)
  t.equal(answer.setCookie.length, 0, 'the cookie is left alone: a parallel login may have replaced it')
  t.equal(await redis.command('EXISTS', key), 0)
  t.same((await visitor.get('/data')).body, {})
})

test('a session that ended while it was in use is not followed by a new one, unless that is asked for', async (t) => {
  const app = await buildApp({ url: redis.url })
  const end = async (ref: string): Promise<void> => {
    const [key] = (await redis.command('KEYS', `*${ref}`)) as string[]
    await redis.command('DEL', key!)
  }
  app.post<{ Body: { write: string; next: string } }>('/ended', async ({ session, body }) => {
    await end(session.ref)
    // A renewal saves first: with nothing to save it finds out by itself.
    if (body.write !== 'renew') session.set('count', 2)
    if (body.write === 'save') await session.save()
    if (body.write === 'touch') await session.touch()
    if (body.write === 'update') await session.update('count', () => 3).catch(() => {})
    if (body.write === 'renew') await session.renew()
    const { isNew } = session
    session.set('late', 1)
    await session.save()
    await session.touch()
    const updated = await session
      .update('late', () => 2)
      .then(
        () => 'written',
        ({ code }: { code: string }) => code
      )
    if (body.next === 'login') await session.login('ada')
    if (body.next === 'regenerate') {
      await session.regenerate()
      session.set('count', 4)
    }
    return { isNew, updated }
  })
  const { browser } = await serve(t, app)
  for (const write of ['save', 'touch', 'update', 'renew']) {
    for (const next of ['nothing', 'login', 'regenerate']) {
      const visitor = browser()
      await visitor.post('/set', { count: 1 })
      const before = visitor.cookie
      const answer = await visitor.post('/ended', { write, next })
      t.same(
        [answer.status, answer.body],
        [200, { isNew: true, updated: 'FLOTILLA_SESSION_ERR_GONE' }],
        `${write}, ${next}`
      )
      t.equal(answer.setCookie.length, next === 'nothing' ? 0 : 1)
      t.equal(visitor.cookie === before, next === 'nothing')
      t.equal((await visitor.get('/me')).body['userId'], next === 'login' ? 'ada' : null)
      t.equal((await visitor.get('/me')).body['isNew'], next === 'nothing')
    }
  }
})

test('a session that becomes unreadable while it is in use ends, and the response is sent', async (t) => {
  const app = await buildApp({ url: redis.url })
  app.get<{ Params: { how: string } }>('/spoil/:how', async ({ session, params }) => {
    const [key] = (await redis.command('KEYS', `*${session.ref}`)) as string[]
    await redis.command('DEL', key!)
    await redis.command('SET', key!, 'text')
    if (params.how === 'set') session.set('count', 2)
    else await session.update('count', (n = 0) => n + 1)
    return 'sent'
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  t.equal((await visitor.get('/spoil/set')).status, 200)
  t.same((await visitor.get('/data')).body, {})
  await visitor.post('/set', { count: 1 })
  t.equal((await visitor.get('/spoil/update')).body['code'], 'FLOTILLA_SESSION_ERR_GONE')
})

test('a failing save destroys the stream it would have sent, and is answered as an error', async (t) => {
  const app = await buildApp({ url: redis.url })
  const { Readable } = await import('node:stream')
  const stream = new Readable({ read() {} })
  app.get('/stream', async ({ session }, reply) => {
    session.set('bad', 1n)
    return reply.send(stream)
  })
  const { browser } = await serve(t, app)
  t.equal((await browser().get('/stream')).status, 500)
  t.ok(stream.destroyed)
})

test('handlers that wait by callback are called back, with the error if there is one', async (t) => {
  const app = await buildApp({ url: redis.url, session: { maxSize: '1kb' } })
  app.post<{ Params: { how: string } }>('/call/:how', ({ session, params }, reply) => {
    const back = (error?: unknown): void =>
      void reply.send({ code: (error as { code?: string } | undefined)?.code ?? null, data: session.data })
    if (params.how === 'save') void session.set('saved', true).save(back)
    if (params.how === 'fail') void session.set('large', 'x'.repeat(2_000)).save(back)
    if (params.how === 'reload') void session.set('unsaved', 1).reload(back)
    if (params.how === 'keep') void session.regenerate(['count'], back)
    if (params.how === 'regenerate') void session.regenerate(back)
    if (params.how === 'destroy') void session.set('count', 2).destroy(back)
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  t.same((await visitor.post('/call/save')).body, { code: null, data: { count: 1, saved: true } })
  t.equal((await visitor.clone().post('/call/fail')).body['code'], 'FLOTILLA_SESSION_ERR_TOO_LARGE')
  t.same((await visitor.post('/call/reload')).body, { code: null, data: { count: 1, saved: true } })
  t.same((await visitor.post('/call/keep')).body, { code: null, data: { count: 1 } })
  t.same((await visitor.get('/data')).body, { count: 1 })
  t.same((await visitor.post('/call/destroy')).body, { code: null, data: {} })
  t.same((await visitor.get('/data')).body, {})
  await visitor.post('/set', { count: 1 })
  t.same((await visitor.post('/call/regenerate')).body, { code: null, data: {} })
})
