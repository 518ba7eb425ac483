import { randomBytes } from 'node:crypto'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { startRedis } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import { createTicketing } from '../src/ticket.js'
import { SECRET } from './support/app.js'
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
  t.match(pair, /^__Host-sid=[\da-f]{4}\.[\w-]{32}\.[\w-]{43}$/)
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
  t.equal(same.cookie.split('.')[1], old.split('.')[1], 'the same id')
  t.equal((await same.get('/data')).setCookie.length, 0)
  const after = await serve(t, { url: redis.url, session: { secret: newer } })
  const gone = after.browser()
  gone.cookie = old
  t.same((await gone.get('/data')).body, {})
})

test('an unknown id is never adopted', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const planted = createTicketing(SECRET, 'sid').issue()
  const visitor = browser()
  visitor.cookie = `sid=${planted.value}`
  t.equal((await visitor.get('/me')).body['isNew'], true)
  const { setCookie } = await visitor.post('/set', { count: 1 })
  t.equal(setCookie.length, 1)
  t.notMatch(setCookie[0], planted.id)
  t.same(await redis.command('KEYS', `*${planted.hash}*`), [])
})

test('hostile cookies: never a 500, never a Redis call, never a Set-Cookie', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const good = visitor.cookies.get('sid')!
  let rejected = 0
  const count = (): void => void rejected++
  subscribe('flotilla:session:rejected', count)
  t.teardown(() => unsubscribe('flotilla:session:rejected', count))
  const hostile = [
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
    '\u00ff'.repeat(81),
    good.replaceAll('.', '%2e ')
  ]
  const alphabet = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.'
  for (let n = 0; n < 500; n++) {
    const at = Math.floor(Math.random() * good.length)
    const other = alphabet[Math.floor(Math.random() * alphabet.length)]!
    if (other !== good[at]) hostile.push(good.slice(0, at) + other + good.slice(at + 1))
    hostile.push(
      randomBytes(Math.floor(Math.random() * 120))
        .toString('latin1')
        .replaceAll(/[\r\n\0]/g, '')
    )
  }
  const { commands } = await redis.countCommands(async () => {
    for (const value of hostile) {
      const answer = await app.inject({ url: '/data', headers: { cookie: `sid=${value}` } })
      if (answer.statusCode !== 200 || answer.body !== '{}' || answer.headers['set-cookie']) {
        t.fail(`${answer.statusCode} ${answer.body} for ${value}`)
      }
    }
  })
  t.same(
    commands.filter(([name]) => name !== 'PUBLISH'),
    []
  )
  t.ok(rejected > 500)
  t.same((await visitor.get('/data')).body, { count: 1 }, 'the good one still works')
})

test('a hundred thousand forged values: none is taken', (t) => {
  const ticketing = createTicketing(SECRET, 'sid')
  const good = ticketing.issue().value
  t.ok(ticketing.verify(good))
  let taken = 0
  for (let n = 0; n < 100_000; n++) {
    const random = randomBytes(81)
    let forged: string
    if (n % 4 === 0) forged = random.toString('base64url').slice(0, n % 120)
    else if (n % 4 === 1) forged = `${good.slice(0, 38)}${random.toString('base64url').slice(0, 43)}`
    else if (n % 4 === 2)
      forged = `${random.toString('hex', 0, 2)}.${random.toString('base64url', 0, 24)}${good.slice(37)}`
    else forged = good.slice(0, n % 81) + String.fromCharCode(33 + (n % 90)) + good.slice((n % 81) + 1)
    if (forged !== good && ticketing.verify(forged)) taken++
  }
  t.equal(taken, 0)
  t.equal(createTicketing(SECRET, 'other').verify(good), undefined, 'nor one signed for another cookie')
  t.end()
})
