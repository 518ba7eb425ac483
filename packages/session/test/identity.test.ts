import { startRedis } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import type { Sessions } from '../src/users/sessions.js'
import { buildApp } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

test('login changes the id, keeps the data, and the old id is dead: no fixation', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/set', { cart: { items: ['book'] } })
  const attacker = visitor.clone()
  const before = visitor.cookie
  const { body, setCookie } = await visitor.post('/login', { userId: 'ada' })
  t.equal(body['userId'], 'ada')
  t.equal(setCookie.length, 1)
  t.not(visitor.cookie, before)
  t.same((await visitor.get('/data')).body, { cart: { items: ['book'] } })
  const seen = await attacker.get('/me')
  t.equal(seen.body['userId'], null)
  t.equal(seen.body['isNew'], true)
  t.same((await attacker.get('/data')).body, {})
})

test('a login as somebody else starts without the data of the one before', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/login', { userId: 'first' })
  await visitor.post('/set', { private: 'letters' })
  await visitor.post('/login', { userId: 'second' })
  t.same((await visitor.get('/data')).body, {})
  await visitor.post('/set', { mine: 1 })
  await visitor.post('/login', { userId: 'second' })
  t.same((await visitor.get('/data')).body, { mine: 1 }, 'as oneself it stays')
})

test('after logout the cookie is cleared and worthless', async (t) => {
  const { browser } = await serve(t, { url: redis.url, session: { clearSiteData: true } })
  const visitor = browser()
  await visitor.post('/login', { userId: 'ada' })
  const replay = visitor.clone()
  const { headers, setCookie } = await visitor.post('/logout')
  t.match(setCookie[0], /^sid=;.*Max-Age=0/)
  t.equal(headers.get('clear-site-data'), '"cache", "cookies", "storage"')
  t.equal(visitor.cookies.size, 0)
  t.equal((await replay.get('/me')).body['userId'], null)
  t.equal((await replay.post('/update/count')).body['value'], 1, 'writing begins a session of its own')
})

test('destroy ends the session without clearing the site', async (t) => {
  const { browser } = await serve(t, { url: redis.url, session: { clearSiteData: '"cookies"' } })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const replay = visitor.clone()
  const { headers } = await visitor.post('/destroy')
  t.equal(headers.get('clear-site-data'), null)
  t.same((await replay.get('/data')).body, {})
})

test('regenerate keeps what is named and nothing else, not even the user', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/login', { userId: 'ada' })
  await visitor.post('/set', { count: 1, other: 2 })
  const replay = visitor.clone()
  t.same((await visitor.post('/regenerate', { keep: ['count'] })).body, { count: 1 })
  t.same((await visitor.get('/data')).body, { count: 1 })
  t.equal((await visitor.get('/me')).body['userId'], null)
  t.same((await replay.get('/data')).body, {})
  await visitor.post('/regenerate')
  t.equal(visitor.cookies.size, 0)
})

test('regenerate: the data that a handler had got before says so when it is written to', async (t) => {
  const app = await buildApp({ url: redis.url })
  app.post<{ Body: { how: string } }>('/captured', async ({ session, body }) => {
    const data = session.data as Record<string, unknown>
    const cart = session.data.cart!
    if (body.how === 'keep') await session.regenerate(['cart'])
    if (body.how === 'nothing') await session.regenerate()
    if (body.how === 'login') await session.login('ada')
    const read = data['count']
    cart.items.push('pen')
    let written = 'kept'
    try {
      data['late'] = 1
    } catch (error) {
      written = (error as Error).name
    }
    return { read, written, data: session.data }
  })
  const { browser } = await serve(t, app)
  const rest = { cart: { items: ['book', 'pen'] } }
  for (const [how, written, left] of [
    ['keep', 'TypeError', rest],
    ['nothing', 'TypeError', {}],
    ['login', 'kept', { ...rest, count: 1, late: 1 }]
  ] as const) {
    const visitor = browser()
    await visitor.post('/login', { userId: 'ada' })
    await visitor.post('/set', { cart: { items: ['book'] }, count: 1 })
    t.same((await visitor.post('/captured', { how })).body, { read: 1, written, data: left }, how)
    t.same((await visitor.get('/data')).body, left, how)
  }
})

test('the list shows what a page of devices needs; revoke ends one, elsewhere and at once', async (t) => {
  for (const encrypt of [false, true]) {
    const { app, browser } = await serve(t, {
      url: redis.url,
      session: { encrypt, prefix: `list-${encrypt}:` }
    })
    const phone = browser({ 'user-agent': 'Phone' })
    const laptop = browser({ 'user-agent': 'Laptop' })
    await phone.post('/login', { userId: 'ada', label: 'My phone' })
    await laptop.post('/login', { userId: 'ada' })
    await browser().post('/login', { userId: 'somebody else' })
    const list = await app.sessions.list('ada')
    t.same(new Set(list.map(({ userAgent }) => userAgent)), new Set(['Laptop', 'Phone']))
    const entry = list.find(({ label }) => label === 'My phone')!
    t.equal(entry.ip, '127.0.0.1')
    t.ok(Math.abs(entry.createdAt.getTime() - Date.now()) < 60_000)
    t.ok(entry.lastSeenAt.getTime() >= entry.createdAt.getTime() - 1_000)
    t.ok(entry.expiresAt.getTime() > Date.now() + 29 * 60_000)
    t.equal(await app.sessions.count('ada'), 2)
    t.equal((await laptop.post('/revoke', { ref: entry.ref })).body['revoked'], true)
    t.equal((await phone.get('/me')).body['userId'], null)
    t.equal((await laptop.get('/me')).body['userId'], 'ada')
    t.equal(await app.sessions.count('ada'), 1)
    t.equal(await app.sessions.revoke('ada', entry.ref), false)
    t.equal(await app.sessions.revoke('somebody else', String((await laptop.get('/me')).body['ref'])), false)
    t.equal((await laptop.get('/me')).body['userId'], 'ada', "nobody revokes another user's session")
  }
})

test('what is found in the list of devices and is not ours does no harm', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url, session: { prefix: 'foreign:' } })
  const visitor = browser({ 'user-agent': 'Phone' })
  const { ref } = (await visitor.post('/login', { userId: 'ada', label: 'mine' })).body
  const [devices] = (await redis.command('KEYS', 'foreign:d2:*')) as string[]
  const [index] = (await redis.command('KEYS', 'foreign:u2:*')) as string[]
  for (const text of [
    '',
    'null',
    '7',
    '"text"',
    '[1]',
    '{broken',
    '{"createdAt":"x","ip":1,"label":{}}',
    '{"createdAt":1e300}'
  ]) {
    await redis.command('HSET', devices!, String(ref), text, `${String(ref)}:t`, text)
    await redis.command('ZADD', index!, text === '7' ? 'inf' : 8e15, String(ref))
    const [entry, ...others] = await app.sessions.list('ada')
    t.same(others, [])
    t.equal(entry?.ref, ref)
    t.doesNotThrow(() =>
      [entry!.createdAt, entry!.lastSeenAt, entry!.expiresAt].map((at) => at.toISOString())
    )
    t.same([entry?.ip, entry?.userAgent, entry?.label], [undefined, undefined, undefined], text)
  }
  t.equal(await app.sessions.revokeAll('ada'), 1)
})

test('revokeAll ends all but the one named', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url, session: { prefix: 'all:' } })
  const browsers = Array.from({ length: 5 }, () => browser())
  for (const one of browsers) await one.post('/login', { userId: 'ada' })
  const [mine, ...others] = browsers
  t.equal((await mine!.post('/revoke-all')).body['revoked'], 4)
  for (const other of others) t.equal((await other.get('/me')).body['userId'], null)
  t.equal((await mine!.get('/me')).body['userId'], 'ada')
  t.equal(await app.sessions.revokeAll('ada'), 1)
  t.same(await app.sessions.list('ada'), [])
  t.same(await redis.command('KEYS', 'all:*'), [], 'nothing is left behind')
})

test('sessions ended by logout or expiry leave the index; one deleted by hand is not listed', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url, session: { prefix: 'index:' } })
  const one = browser()
  await one.post('/login', { userId: 'ada' })
  const two = browser()
  await two.post('/login', { userId: 'ada' })
  await one.post('/logout')
  t.equal(await app.sessions.count('ada'), 1)
  for (const key of (await redis.command('KEYS', 'index:s:*')) as string[]) await redis.command('DEL', key)
  t.equal(await app.sessions.count('ada'), 0)
  t.same(await app.sessions.list('ada'), [])
  for (const key of (await redis.command('KEYS', 'index:*')) as string[]) {
    t.ok(Number(await redis.command('PTTL', key)) > 0, 'what is left expires by itself')
  }
})

test("after the secret was rotated a user's older sessions are still listed and revoked", async (t) => {
  const [older, newer] = ['o'.repeat(40), 'n'.repeat(40)] as const
  const before = await serve(t, { url: redis.url, session: { secret: older, prefix: 'rotate:' } })
  const first = before.browser()
  await first.post('/login', { userId: 'ada' })
  const { app, browser } = await serve(t, {
    url: redis.url,
    session: { secret: [newer, older], prefix: 'rotate:' }
  })
  const second = browser()
  await second.post('/login', { userId: 'ada' })
  t.equal(await app.sessions.count('ada'), 2)
  t.equal(await app.sessions.revokeAll('ada'), 2)
  t.equal((await first.get('/me')).body['userId'], null)
})

test('a user id must be a non-empty string', async (t) => {
  const app = await buildApp({ url: redis.url })
  app.post('/bad-login', async ({ session, body }) => session.login((body as { id: string }).id))
  const { browser } = await serve(t, app)
  for (const id of ['', 7, null, {}, 'a'.repeat(1_025)]) {
    const { body } = await browser().post('/bad-login', { id })
    t.equal(body['code'], 'FLOTILLA_SESSION_ERR_USER_ID')
    t.notMatch(body['message'], /\d/, 'the client is not given the limit')
  }
  await t.rejects(app.sessions.list(''), {
    code: 'FLOTILLA_SESSION_ERR_USER_ID',
    cause: { message: /at most 1024 bytes, got an empty string/ }
  })
})

test("another type in the place of a user's list is removed: the user logs in, is listed and revoked", async (t) => {
  const calls = {
    list: (sessions) => sessions.list('ada'),
    count: (sessions) => sessions.count('ada'),
    revoke: (sessions) => sessions.revoke('ada', 'x'.repeat(43)),
    revokeAll: (sessions) => sessions.revokeAll('ada')
  } satisfies Record<string, (sessions: Sessions) => Promise<unknown>>
  const requests = ['/login', '/logout', '/set', '/update/count', '/renew']
  for (const name of [...requests, ...Object.keys(calls)]) {
    const app = await buildApp({ url: redis.url, session: { prefix: `foreign${name}:` } })
    const { browser } = await serve(t, app)
    const visitor = browser()
    await visitor.post('/login', { userId: 'ada' })
    const lists = (await redis.command('KEYS', `foreign${name}:[ud]2:*`)) as string[]
    t.equal(lists.length, 2)
    for (const key of lists) {
      await redis.command('DEL', key)
      await redis.command('SET', key, 'text')
    }
    if (name in calls) await calls[name as keyof typeof calls](app.sessions)
    else t.equal((await visitor.post(name, { userId: 'ada', count: 3 })).status, 200, name)
    await visitor.post('/login', { userId: 'ada' })
    t.equal(await app.sessions.count('ada'), 1, name)
    t.equal(await app.sessions.revokeAll('ada'), 1, name)
    t.equal((await visitor.get('/me')).body['userId'], null)
  }
})
