import { listen, startProxy, startRedis, until, type TcpProxy } from '@flotilla/testbed'
import type { FastifyInstance } from 'fastify'
import { after, before, test } from 'tap'
import { renewAnonymous, renewOwned } from '../src/store/lua/renew.js'
import { takeAnonymous } from '../src/store/lua/take.js'
import type { Sessions } from '../src/users/sessions.js'
import { beforeScript, buildApp, type AppSettings } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

/** As if the ids of these sessions had last been changed that many milliseconds earlier. */
async function ageIds(prefix: string, ms: number): Promise<void> {
  for (const key of (await redis.command('KEYS', `${prefix}s:*`)) as string[]) {
    const meta = (await redis.command('HGET', key, '@')) as string | null
    if (meta === null) continue
    const parts = meta.split(' ')
    parts[4] = String(Number(parts[4]) - ms)
    await redis.command('HSET', key, '@', parts.join(' '))
  }
}

/** The one session there is. */
async function liveKey(prefix: string): Promise<string> {
  for (const key of (await redis.command('KEYS', `${prefix}s:*`)) as string[])
    if (await isLive(key)) return key
  throw new Error('there is none')
}
const isLive = async (key: string): Promise<boolean> => (await redis.command('HEXISTS', key, '@')) === 1

const HOUR = 3_600_000
const hourly = { renew: { every: '1h', grace: '10m' } } as const

/** An app with a route whose handler writes one key, and returns when the test says so. */
async function withSlowWrites(
  settings: AppSettings
): Promise<{ app: FastifyInstance; entered: () => number; release: (key: string) => void }> {
  const app = await buildApp(settings)
  const gates = new Map<string, () => void>()
  app.post<{ Params: { key: string } }>('/slow/:key', async ({ session, params }) => {
    session.set(params.key, 1)
    await new Promise<void>((resolve) => gates.set(params.key, resolve))
    return {}
  })
  return { app, entered: () => gates.size, release: (key) => gates.get(key)!() }
}

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

test('renew changes the id at once and keeps everything, the reference too', async (t) => {
  for (const encrypt of [false, true]) {
    const { browser } = await serve(t, { url: redis.url, session: { encrypt, prefix: `renew-${encrypt}:` } })
    const visitor = browser()
    await visitor.post('/login', { userId: 'ada' })
    await visitor.post('/set', { count: 1 })
    const { ref } = (await visitor.get('/me')).body
    const replay = visitor.clone()
    t.equal((await visitor.post('/renew')).body['ref'], ref)
    t.not(visitor.cookie, replay.cookie)
    t.same((await visitor.get('/data')).body, { count: 1 })
    t.equal((await visitor.get('/me')).body['ref'], ref)
    t.same((await replay.get('/data')).body, {}, 'no grace')
    t.equal((await visitor.post('/revoke', { ref })).body['revoked'], true, 'found under its new id')
    t.equal((await visitor.get('/me')).body['userId'], null)
  }
})

test('periodic renewal: the old id leads to the session for the grace, reads and writes alike, then no more', async (t) => {
  for (const encrypt of [false, true]) {
    const { browser } = await serve(t, {
      url: redis.url,
      session: { encrypt, prefix: `grace-${encrypt}:`, renew: { every: '1s', grace: '2s' } }
    })
    const visitor = browser()
    await visitor.post('/login', { userId: 'ada' })
    await visitor.post('/set', { count: 1 })
    const old = visitor.clone()
    const late = visitor.clone()
    await until(async () => (await visitor.get('/data')).setCookie.length === 1, {
      message: 'the id is renewed'
    })
    let aliases = 0
    for (const key of (await redis.command('KEYS', `grace-${encrypt}:s:*`)) as string[]) {
      if ((await redis.command('HEXISTS', key, '@a')) !== 1) continue
      aliases++
      const left = Number(await redis.command('PTTL', key))
      t.ok(left > 0 && left <= 2_000, `the old id is there for the grace and no longer: ${left} ms`)
    }
    t.equal(aliases, 1)
    const parallel = await old.get('/data')
    t.same(parallel.body, { count: 1 }, 'a request under way with the old id')
    t.equal(parallel.setCookie.length, 1, 'is told the new one')
    t.same((await visitor.get('/data')).body, { count: 1 })
    const writer = late.clone()
    await writer.post('/set', { later: 2 })
    await writer.post('/update/count')
    t.same((await visitor.get('/data')).body, { count: 2, later: 2 })
    await until(async () => (await late.clone().get('/me')).body['userId'] === null, {
      message: 'the grace ends'
    })
    t.equal((await visitor.get('/me')).body['userId'], 'ada')
  }
})

test('parallel writes while the id is due: it is renewed once, and all of them arrive', async (t) => {
  for (const encrypt of [false, true]) {
    const prefix = `due-${encrypt}:`
    const { app, entered, release } = await withSlowWrites({
      url: redis.url,
      session: { ...hourly, encrypt, prefix }
    })
    const renewed = listen(t, 'flotilla:session:renewed')
    const { browser } = await serve(t, app)
    const visitor = browser()
    await visitor.post('/login', { userId: 'ada' })
    await ageIds(prefix, HOUR)
    const keys = ['a', 'b', 'c', 'd', 'e']
    const writes = keys.map((key) => visitor.clone().post(`/slow/${key}`))
    await until(() => entered() === keys.length, { message: 'all have read the session' })
    const cookies = new Set<string>()
    for (const [n, key] of keys.entries()) {
      release(key)
      const { status, setCookie } = await writes[n]!
      t.equal(status, 200)
      cookies.add(setCookie[0]!)
    }
    t.equal(renewed.length, 1)
    t.equal(cookies.size, 1, 'all are told the same id')
    t.same((await visitor.get('/data')).body, { a: 1, b: 1, c: 1, d: 1, e: 1 })
    t.equal((await visitor.get('/me')).body['userId'], 'ada')
  }
})

test('an id that has been renewed more often than is followed ends nothing', async (t) => {
  const prefix = 'often:'
  const { app, entered, release } = await withSlowWrites({ url: redis.url, session: { ...hourly, prefix } })
  const dropped = listen(t, 'flotilla:session:dropped')
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/login', { userId: 'ada' })
  const old = visitor.clone()
  const write = visitor.clone().post('/slow/a')
  await until(() => entered() === 1, { message: 'the session is read' })
  for (let n = 0; n < 10; n++) {
    await ageIds(prefix, HOUR)
    t.equal((await visitor.get('/data')).setCookie.length, 1)
  }
  release('a')
  for (const { status, setCookie } of [await write, await old.get('/data')]) {
    t.equal(status, 503, 'neither lost in silence nor answered as if there were no session')
    t.equal(setCookie.length, 0)
  }
  t.same(dropped, [])
  t.equal((await visitor.get('/me')).body['userId'], 'ada')
})

test('encrypted, the id of a session that every request writes to is renewed as well', async (t) => {
  const prefix = 'busy:'
  const { app, browser } = await serve(t, {
    url: redis.url,
    session: { ...hourly, encrypt: true, prefix }
  })
  const visitor = browser()
  await visitor.post('/login', { userId: 'ada' })
  await visitor.post('/set', { count: 1, other: 1 })
  for (const [path, body] of [
    ['/set', { count: 2, other: undefined }],
    ['/update/count', {}]
  ] as const) {
    await ageIds(prefix, HOUR)
    const before = visitor.cookie
    t.equal((await visitor.post(path, body)).status, 200)
    t.not(visitor.cookie, before, path)
  }
  t.same((await visitor.get('/data')).body, { count: 3, other: 1 })
  t.equal(await app.sessions.count('ada'), 1)
})

test('renew, encrypted and written to meanwhile: the old id is dead, and what the handler holds is saved', async (t) => {
  const prefix = 'held:'
  const app = await buildApp({ url: redis.url, session: { encrypt: true, prefix } })
  app.post('/hold', async ({ session }) => {
    const cart = session.data.cart!
    // Another request, with the same cookie.
    await other.post('/set', { late: 1 })
    await session.renew()
    cart.items.push('pen')
    return {}
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { cart: { items: ['book'] } })
  const other = visitor.clone()
  t.equal((await visitor.post('/hold')).status, 200)
  t.same((await visitor.get('/data')).body, { cart: { items: ['book', 'pen'] }, late: 1 })
  t.same((await other.get('/data')).body, {}, 'the old id')
})

test('renew of an encrypted session that others never stop writing to tells that the id is the old one', async (t) => {
  const prefix = 'restless:'
  const app = await buildApp({ url: redis.url, session: { encrypt: true, prefix } })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const other = visitor.clone()
  let armed = true
  let tries = 0
  beforeScript(app, [renewAnonymous.sha], async () => {
    if (!armed) return
    tries++
    armed = false
    await other.post('/update/count')
    armed = true
  })
  const answer = await visitor.post('/renew')
  t.equal(answer.status, 409)
  t.equal(answer.body['code'], 'FLOTILLA_SESSION_ERR_CONFLICT')
  t.equal(answer.setCookie.length, 0)
  t.ok(tries > 1, 'it was tried again')
  armed = false
  t.same((await visitor.get('/data')).body, { count: 1 + tries })
  t.equal((await visitor.post('/renew')).status, 200)
  t.same((await other.get('/data')).body, {}, 'now it is dead')
})

test('renew while a periodic renewal is a moment faster: neither id before leads on', async (t) => {
  for (const encrypt of [false, true]) {
    const prefix = `faster-${encrypt}:`
    const app = await buildApp({ url: redis.url, session: { ...hourly, encrypt, prefix } })
    const { browser } = await serve(t, app)
    const visitor = browser()
    await visitor.post('/set', { count: 1 })
    const first = visitor.clone()
    const other = visitor.clone()
    let armed = true
    beforeScript(app, [renewAnonymous.sha], async () => {
      if (!armed) return
      armed = false
      await ageIds(prefix, HOUR)
      await other.get('/data')
    })
    t.equal((await visitor.post('/renew')).status, 200)
    t.not(other.cookie, first.cookie)
    t.same((await visitor.get('/data')).body, { count: 1 })
    t.same((await other.get('/data')).body, {})
    t.same((await first.get('/data')).body, {})
  }
})

/** Has a script end the session under a key, loses the reply to it with the connection, and returns what came of it. */
async function replyLost<Answer>(
  of: { app: FastifyInstance; proxy: TcpProxy; scripts: string[]; before: string },
  act: () => Promise<Answer>
): Promise<Answer> {
  beforeScript(of.app, of.scripts, () => of.proxy.loseReplies())
  const acting = act()
  await until(async () => !(await isLive(of.before)), { message: 'it was carried out' })
  of.proxy.cut()
  await of.proxy.restore()
  return acting
}

test('a renewal whose reply was lost and that the client sent again is the one that was made', async (t) => {
  for (const encrypt of [false, true]) {
    for (const userId of [undefined, 'ada']) {
      const prefix = `lost-${encrypt}-${userId}:`
      const proxy = await startProxy(redis)
      t.teardown(() => proxy.stop())
      const app = await buildApp({ url: proxy.through(redis.url), session: { encrypt, prefix } })
      const { browser } = await serve(t, app)
      const visitor = browser()
      await visitor.post('/set', { count: 1 })
      if (userId !== undefined) await visitor.post('/login', { userId })
      // From now on the server knows the script: a lost NOSCRIPT would be another story.
      await visitor.post('/renew')
      const old = visitor.clone()
      const before = await liveKey(prefix)
      const scripts = [renewAnonymous.sha, renewOwned.sha]
      const renewing = await replyLost({ app, proxy, scripts, before }, () => visitor.post('/renew'))
      t.equal(renewing.status, 200)
      t.not(visitor.cookie, old.cookie)
      const { body } = await visitor.get('/me')
      t.same([body['userId'], body['isNew']], [userId ?? null, false], prefix)
      t.same((await visitor.get('/data')).body, { count: 1 })
      t.same((await old.get('/data')).body, {}, 'the old id is dead')
      if (userId !== undefined)
        t.equal(await app.sessions.revokeAll(userId), 1, 'listed once, under its new id')
    }
  }
})

test('a login whose end of the session before was carried out and sent again keeps the data', async (t) => {
  const dropped = listen(t, 'flotilla:session:dropped')
  for (const encrypt of [false, true]) {
    const prefix = `ended-${encrypt}:`
    const proxy = await startProxy(redis)
    t.teardown(() => proxy.stop())
    const app = await buildApp({ url: proxy.through(redis.url), session: { encrypt, prefix } })
    const { browser } = await serve(t, app)
    const visitor = browser()
    await visitor.post('/set', { count: 1 })
    // From now on the server knows the script.
    await visitor.post('/regenerate', { keep: ['count'] })
    const old = visitor.clone()
    const before = await liveKey(prefix)
    const scripts = [takeAnonymous.sha]
    const login = await replyLost({ app, proxy, scripts, before }, () =>
      visitor.post('/login', { userId: 'ada' })
    )
    t.equal(login.status, 200)
    t.same((await visitor.get('/data')).body, { count: 1 })
    t.same((await old.get('/data')).body, {}, 'the old id is dead')
    t.same(dropped, [], 'and nothing is found in its place')
    t.ok(Number(await redis.command('PTTL', before)) > 0, 'for long')
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
  const [devices] = (await redis.command('KEYS', 'foreign:d:*')) as string[]
  const [index] = (await redis.command('KEYS', 'foreign:u:*')) as string[]
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
    await redis.command('HSET', devices!, String(ref), `${String(ref)} ${text}`, `${String(ref)}:t`, text)
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
  for (const id of ['', 7, null, {}]) {
    t.equal((await browser().post('/bad-login', { id })).body['code'], 'FLOTILLA_SESSION_ERR_USER_ID')
  }
  await t.rejects(app.sessions.list(''), { code: 'FLOTILLA_SESSION_ERR_USER_ID' })
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
    const lists = (await redis.command('KEYS', `foreign${name}:[ud]:*`)) as string[]
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
