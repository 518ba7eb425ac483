import { randomBytes } from 'node:crypto'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { startRedis } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import { SessionTokens } from '../src/store/token.js'
import { SECRET } from './support/app.js'
import { buildApp } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

const https = { 'x-forwarded-proto': 'https' }

test('by default the cookie is __Host-sid with all that protects it', async (t) => {
  const { browser } = await serve(t, {
    url: redis.url,
    fastify: { trustProxy: true },
    session: { cookie: {} }
  })
  const visitor = browser(https)
  const { setCookie, headers } = await visitor.post('/set', { count: 1 })
  const [pair = '', ...attributes] = setCookie[0]!.split('; ')
  t.match(pair, /^__Host-sid=[\da-f]{4}\.[\w-]{24}\.[\w-]{24}\.1\.[\w-]{4}\.[\w-]{43}$/)
  t.same(attributes.sort(), ['HttpOnly', 'Path=/', 'SameSite=Lax', 'Secure'])
  t.equal(headers.get('cache-control'), 'no-store')
  t.same((await visitor.get('/data')).body, { count: 1 })
})

test("'auto' follows the protocol, the name with it", async (t) => {
  const { browser } = await serve(t, { url: redis.url, fastify: { trustProxy: true } })
  const plain = await browser().post('/set', { count: 1 })
  t.match(plain.setCookie[0], /^sid=/)
  t.notMatch(plain.setCookie[0], /Secure/)
  const secure = await browser(https).post('/set', { count: 1 })
  t.match(secure.setCookie[0], /^__Host-sid=.*; Secure/)
})

test('a path or a domain takes __Host- away, not Secure; attributes pass through', async (t) => {
  const { browser } = await serve(t, {
    url: redis.url,
    fastify: { trustProxy: true },
    session: {
      cookie: {
        name: 'shop',
        path: '/',
        domain: 'example.org',
        partitioned: true,
        sameSite: 'none',
        persistent: true
      }
    }
  })
  const { setCookie } = await browser(https).post('/set', { count: 1 })
  t.match(setCookie[0], /^__Secure-shop=/)
  for (const part of ['Domain=example.org', 'Partitioned', 'SameSite=None', 'Secure', 'Max-Age=86400']) {
    t.match(setCookie[0], part)
  }
})

test('a Secure cookie over http is sent all the same, and said loudly once', async (t) => {
  const lines: string[] = []
  const { browser } = await serve(t, {
    url: redis.url,
    session: { cookie: {} },
    fastify: { logger: { level: 'error', stream: { write: (line: string) => void lines.push(line) } } }
  })
  for (let n = 0; n < 3; n++)
    t.match((await browser().post('/set', { count: n })).setCookie[0], /^__Host-sid=/)
  t.equal(lines.filter((line) => line.includes('browsers drop it')).length, 1)
})

test('an older secret still verifies, and the browser gets the newest signature for the same session', async (t) => {
  const older = randomBytes(32)
  const newer = randomBytes(32)
  const before = await serve(t, { url: redis.url, session: { secret: older } })
  const visitor = before.browser()
  await visitor.post('/set', { count: 7 })
  const old = visitor.cookie
  const { browser } = await serve(t, { url: redis.url, session: { secret: [newer, older] } })
  const same = browser()
  same.cookie = old
  const answer = await same.get('/data')
  t.same(answer.body, { count: 7 })
  t.equal(answer.setCookie.length, 1)
  t.not(same.cookie, old)
  t.equal(same.cookie.split('.')[1], old.split('.')[1], 'the same session')
  t.equal((await same.get('/data')).setCookie.length, 0)
  const after = await serve(t, { url: redis.url, session: { secret: newer } })
  const gone = after.browser()
  gone.cookie = old
  t.same((await gone.get('/data')).body, {})
})

test('an unknown id is never adopted', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const planted = new SessionTokens(SECRET, 'sid').issue()
  const visitor = browser()
  visitor.cookie = `sid=${planted.value}`
  t.equal((await visitor.get('/me')).body['isNew'], true)
  const { setCookie } = await visitor.post('/set', { count: 1 })
  t.equal(setCookie.length, 1)
  t.notMatch(setCookie[0], planted.selector)
  t.same(await redis.command('KEYS', `*${planted.ref}*`), [])
})

/** Values that no secret of ours signed, from the plainly broken to one character off. */
function* hostileValues(good: string): Generator<string> {
  yield* [
    '',
    '.',
    '..',
    good.slice(0, -1),
    `${good}x`,
    good.toUpperCase(),
    good.replace('.', ''),
    `${good.slice(0, -1)}=`,
    `s:${good}`,
    `"${good}"x`,
    '%00',
    '%',
    '%zz',
    '__proto__',
    'x'.repeat(7_000),
    good.split('.').toReversed().join('.'),
    `0000${good.slice(4)}`,
    `${good.slice(0, 10)}é${good.slice(11)}`,
    '\u00ff'.repeat(101),
    good.replaceAll('.', '%2e ')
  ]
  const alphabet = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.'
  for (let n = 0; ; n++) {
    const random = randomBytes(120)
    const at = random.readUInt32LE(0) % good.length
    const other = alphabet[random.readUInt32LE(4) % alphabet.length]!
    if (other !== good[at]) yield good.slice(0, at) + other + good.slice(at + 1)
    const [keyId] = good.split('.').slice(4)
    yield [
      random.toString('hex', 0, 2),
      random.toString('base64url', 2, 20),
      random.toString('base64url', 20, 38),
      1 + (n % 100),
      n % 2 ? keyId : random.toString('base64url', 38, 41),
      random.toString('base64url', 41, 73)
    ].join('.')
    yield good.slice(0, at)
    yield random.toString('latin1', 8, 8 + (n % 112)).replaceAll(/[^\x20-\x7e\x80-\xff]/g, '')
  }
}

const BATCH = 500

/** Sends one request for each value without waiting in between, and gives the answers in their order. */
async function pipelined(socket: Socket, values: readonly string[]): Promise<string[]> {
  socket.write(
    values.map((value) => `GET /data HTTP/1.1\r\nHost: test\r\nCookie: sid=${value}\r\n\r\n`).join(''),
    'latin1'
  )
  let text = ''
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    text += (chunk as Buffer).toString('latin1')
    const answers = text.split('HTTP/1.1 ').slice(1)
    if (answers.length === values.length && text.endsWith('\r\n\r\n{}')) return answers
    if (/HTTP\/1\.1 [^2]/.test(text)) return answers
  }
  throw new Error('the server closed the connection')
}

test('a hundred thousand hostile cookies: never a 500, never a Redis call, never a Set-Cookie', async (t) => {
  const { url, browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const good = visitor.cookies.get('sid')!
  let rejected = 0
  const count = (): void => void rejected++
  subscribe('flotilla:session:rejected', count)
  t.teardown(() => unsubscribe('flotilla:session:rejected', count))
  const values = hostileValues(good)
  const { commands, result: wrong } = await redis.countCommands(async () => {
    const wrong: string[] = []
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    await once(socket, 'connect')
    for (let sent = 0; sent < 100_000; sent += BATCH) {
      const batch = Array.from({ length: BATCH }, () => values.next().value as string)
      const answers = await pipelined(socket, batch)
      for (const [n, answer] of answers.entries())
        if (!answer.startsWith('200 ') || !answer.endsWith('\r\n\r\n{}') || /set-cookie/i.test(answer))
          wrong.push(`${answer} for ${batch[n]}`)
    }
    socket.destroy()
    return wrong
  })
  t.same(wrong.slice(0, 5), [])
  t.same(
    commands.filter(([name]) => name !== 'PUBLISH'),
    []
  )
  t.ok(rejected > 90_000, `${rejected} reached the MAC check and were refused by it`)
  t.same((await visitor.get('/data')).body, { count: 1 }, 'the good one still works')
})

test('a value signed for another cookie, or by another secret, is not taken', (t) => {
  const tokens = new SessionTokens(SECRET, 'sid')
  const { value } = tokens.issue()
  t.ok(tokens.verify(value))
  t.equal(new SessionTokens(SECRET, 'other').verify(value), undefined)
  t.equal(new SessionTokens(`${SECRET}.`, 'sid').verify(value), undefined)
  t.end()
})

test('session.cookie shows what the response sets, under the names of @fastify/session', async (t) => {
  for (const [session, headers, expected] of [
    [{}, {}, { path: '/', domain: null, httpOnly: true, secure: false, sameSite: 'lax', partitioned: false }],
    [
      {
        cookie: { secure: 'auto', sameSite: 'none', partitioned: true, path: '/app', domain: 'example.org' }
      },
      { 'x-forwarded-proto': 'https' },
      { path: '/app', domain: 'example.org', secure: true, sameSite: 'none', partitioned: true }
    ],
    [
      { cookie: { secure: 'auto', sameSite: 'none', partitioned: true } },
      {},
      { secure: false, sameSite: 'lax', partitioned: false }
    ]
  ] as const) {
    const app = await buildApp({ url: redis.url, session, fastify: { trustProxy: true } })
    app.get('/app/cookie', async (request) => request.session.cookie)
    const { browser } = await serve(t, app)
    const { body } = await browser(headers).get('/app/cookie')
    t.match(body, { ...expected, maxAge: null, originalMaxAge: null, expires: null })
  }
})

test('session.cookie knows how long the cookie lives', async (t) => {
  const session = { absoluteTimeout: '2h', cookie: { persistent: true, secure: 'auto' } } as const
  const app = await buildApp({ url: redis.url, session })
  app.post('/cookie', async ({ session }) => session.cookie)
  app.post('/brief', async ({ session }) => {
    session.options({ maxAge: '10m' })
    return session.cookie
  })
  app.post('/assign', async ({ session }) => {
    ;(session.cookie as { maxAge: number }).maxAge = 1
    return {}
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  t.match((await visitor.post('/cookie')).body, { originalMaxAge: 7_200_000, maxAge: 7_200_000 })
  await visitor.post('/set', { count: 1 })
  const { body } = await visitor.post('/cookie')
  t.equal(body['originalMaxAge'], 7_200_000)
  t.ok((body['maxAge'] as number) < 7_200_000)
  t.ok(Math.abs(Date.parse(String(body['expires'])) - Date.now() - Number(body['maxAge'])) < 60_000)
  t.match((await visitor.post('/brief')).body, { originalMaxAge: 600_000, maxAge: 600_000 })
  t.equal((await visitor.post('/assign')).status, 500, 'it is for reading')
})
