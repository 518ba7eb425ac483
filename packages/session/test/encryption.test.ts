import { startRedis } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import { SECRET } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

/** All that Redis holds, as text. */
async function dump(pattern: string): Promise<string> {
  const parts: unknown[] = []
  for (const key of (await redis.command('KEYS', pattern)) as string[]) {
    const type = await redis.command('TYPE', key)
    parts.push(key)
    if (type === 'hash') parts.push(await redis.command('HGETALL', key))
    else if (type === 'zset') parts.push(await redis.command('ZRANGE', key, 0, -1))
    else parts.push(await redis.command('GET', key))
  }
  return JSON.stringify(parts)
}

test('a dump of Redis logs nobody in: it holds no cookie and no id, renewed sessions included', async (t) => {
  const { browser } = await serve(t, { url: redis.url, session: { prefix: 'plain:' } })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const cookies = [visitor.cookie]
  await visitor.post('/login', { userId: 'ada' })
  cookies.push(visitor.cookie)
  await visitor.post('/renew')
  cookies.push(visitor.cookie)
  const text = await dump('plain:*')
  for (const cookie of cookies) {
    const [, selector = '', verifier = '', , , mac = ''] = cookie.split('.')
    t.ok(selector.length === 24 && verifier.length === 24 && mac.length === 43)
    for (const secret of [selector, verifier, mac]) t.notOk(text.includes(secret))
  }
})

test('encrypted, it holds no data either, and only the cookie opens it', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url, session: { encrypt: true, prefix: 'sealed:' } })
  const visitor = browser({ 'user-agent': 'Tellingtale/1.0' })
  await visitor.post('/set', { diary: 'dear diary', cart: { items: ['secret book'] } })
  await visitor.post('/login', { userId: 'ada@example.org', label: 'kitchen tablet' })
  await visitor.post('/push', { items: ['another'] })
  await visitor.post('/update/count')
  await visitor.post('/update/count')
  t.same((await visitor.get('/data')).body, {
    diary: 'dear diary',
    cart: { items: ['secret book', 'another'] },
    count: 2
  })
  t.equal((await visitor.get('/me')).body['userId'], 'ada@example.org')
  t.equal((await app.sessions.list('ada@example.org'))[0]?.label, 'kitchen tablet')
  const text = await dump('sealed:*')
  for (const word of [
    'dear diary',
    'secret book',
    'another',
    'ada@example.org',
    'Tellingtale',
    'kitchen',
    '127.0.0.1'
  ]) {
    t.notOk(text.includes(word), word)
  }
})

test('a sealed field moved to another field, or another session, or touched, ends the session', async (t) => {
  const { browser } = await serve(t, { url: redis.url, session: { encrypt: true, prefix: 'moved:' } })
  const make = async (): Promise<[ReturnType<typeof browser>, string]> => {
    const visitor = browser()
    const { body } = await visitor.post('/set', { role: 'user', name: 'admin' })
    const [key] = (await redis.command('KEYS', `moved:s:*${String(body['ref'])}`)) as string[]
    return [visitor, key!]
  }
  const [one, oneKey] = await make()
  const [two, twoKey] = await make()
  const [three, threeKey] = await make()
  const name = String(await redis.command('HGET', oneKey, 'name'))
  await redis.command('HSET', oneKey, 'role', name)
  await redis.command('HSET', twoKey, 'name', name)
  await redis.command(
    'HSET',
    threeKey,
    'name',
    `${String(await redis.command('HGET', threeKey, 'name')).slice(0, -6)}AAAAA=`
  )
  for (const visitor of [one, two, three]) {
    const { status, body } = await visitor.get('/data')
    t.equal(status, 200)
    t.same(body, {})
  }
})

test('the secret rotates under encrypted sessions', async (t) => {
  const before = await serve(t, { url: redis.url, session: { encrypt: true, prefix: 'turn:' } })
  const visitor = before.browser()
  await visitor.post('/login', { userId: 'ada' })
  await visitor.post('/set', { count: 1 })
  const next = await serve(t, {
    url: redis.url,
    session: { encrypt: true, prefix: 'turn:', secret: ['n'.repeat(40), SECRET] }
  })
  const same = next.browser()
  same.cookie = visitor.cookie
  t.equal((await same.post('/update/count')).body['value'], 2)
  t.same((await same.get('/data')).body, { count: 2 })
  t.equal((await next.app.sessions.list('ada')).length, 1)
})

test('fifty parallel writes survive encryption too, and updates count', async (t) => {
  const { browser } = await serve(t, { url: redis.url, session: { encrypt: true } })
  const visitor = browser()
  await visitor.post('/set', { count: 0 })
  await Promise.all(Array.from({ length: 50 }, (_none, n) => visitor.post('/set', { [`f${n}`]: n })))
  await Promise.all(Array.from({ length: 50 }, () => visitor.post('/update/count')))
  const { body } = await visitor.get('/data')
  t.equal(Object.keys(body).length, 51)
  t.equal(body['count'], 50)
})

test('maxSize counts the data, not what encryption adds, also of fields that were saved before', async (t) => {
  const { app } = await serve(t, { url: redis.url, session: { encrypt: true, maxSize: '1kb' } })
  const text = 'x'.repeat(200)
  // With its key and the quotes one of them has 203 bytes.
  const session = await app.sessions.create<Record<string, string>>(undefined, { a: text })
  const same = (await app.sessions.get<Record<string, string>>(session.id!))!
  for (const one of [session, same]) {
    for (const key of ['b', 'c', 'd', 'e']) await one.set(key, text).save()
    one.set('f', text)
    await t.rejects(one.save(), {
      code: 'FLOTILLA_SESSION_ERR_TOO_LARGE',
      cause: { message: /1218 of 1024 bytes/ }
    })
  }
})
