import { flotillaRedis } from '@flotilla/redis'
import { startRedis, until } from '@flotilla/testbed'
import Fastify from 'fastify'
import { after, before, test } from 'tap'
import { flotillaSession, type SessionOptions } from '../src/index.js'
import { RedisClock } from '../src/store/clock.js'
import { Keys, type Owner, type SessionKey } from '../src/store/keys.js'
import { MemoryStore } from '../src/store/memory-store.js'
import { parseMeta, parseVerifier } from '../src/store/meta.js'
import { RedisStore } from '../src/store/redis-store.js'
import type { CreateInput, PresentInput, SessionStore } from '../src/store/session-store.js'
import { SessionTokens } from '../src/store/token.js'
import { addRoutes, SECRET } from './support/app.js'
import { serve } from './support/serve.js'

/*
 * The contract of a session store. Redis and this process's memory must both keep it.
 */

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

const keys = new Keys('contract:', SECRET)
const tokens = new SessionTokens(SECRET, 'sid')
const IDLE = 60_000

type Open = (t: { teardown(fn: () => unknown): void }, idleTimeout?: number) => Promise<SessionStore>

const stores: Record<string, Open> = {
  async redis(t, idleTimeout = IDLE) {
    const app = Fastify()
    await app.register(flotillaRedis, { url: redis.url, commandTimeout: '10s' })
    t.teardown(() => app.close())
    return new RedisStore(app.redis, keys, new RedisClock(), { idleTimeout, version: 3 })
  },
  async memory(_t, idleTimeout = IDLE) {
    return new MemoryStore(keys, new RedisClock(), { idleTimeout, version: 3 })
  }
}

const INPUT: CreateInput = {
  absoluteTimeout: 3_600_000,
  idleTimeout: 0,
  persistent: undefined,
  version: 2,
  verifierHash: hash('1'),
  device: 'a device',
  fields: [['a', '1']],
  limit: undefined,
  replaces: undefined
}

/** In the place of a SHA-256 in base64url. */
function hash(name: string): string {
  return name.padStart(43, '0')
}

let users = 0
const newOwner = (): Owner => keys.owners(`user ${users++}`)[0]!

function newKey(owner?: Owner): SessionKey {
  const { tag, ref } = tokens.issue(owner?.tag)
  return { tag, ref, userHash: owner?.userHash }
}

const changes = (set: [string, string][], remove: string[] = []) => ({ set, remove })

/** Without the plugin's own. */
async function dataOf(store: SessionStore, key: SessionKey): Promise<Record<string, string>> {
  const fields = Object.entries(await store.read(key))
  return Object.fromEntries(fields.filter(([field]) => !field.startsWith('@')))
}

const metaOf = async (store: SessionStore, key: SessionKey) => parseMeta((await store.read(key))['@']!)!

for (const [name, open] of Object.entries(stores)) {
  test(`${name}: what is written is read, and nothing is written to what has ended`, async (t) => {
    const store = await open(t)
    const owner = newOwner()
    for (const key of [newKey(), newKey(owner)]) {
      t.same(await store.read(key), {})
      t.ok('now' in (await store.create(key, INPUT)))
      t.same(await dataOf(store, key), { a: '1' })
      t.match(await metaOf(store, key), { revision: 1, version: 2, userHash: key.userHash })
      t.ok(
        await store.save(
          key,
          changes(
            [
              ['b', '2'],
              ['c', '3']
            ],
            ['a']
          )
        )
      )
      t.ok(await store.save(key, changes([['__proto', '4']], ['c'])))
      t.same(await dataOf(store, key), { b: '2', __proto: '4' })
      t.match(await metaOf(store, key), { revision: 3, version: 3 })

      const set = { field: 'b', expected: '2', next: '5' }
      t.match(await store.update(key, set), { written: true, stored: '5' })
      t.match(await store.update(key, set), { written: false, stored: '5' })
      t.match(await store.update(key, { field: 'n', expected: undefined, next: '6' }), { written: true })
      t.match(await store.update(key, { field: 'm', expected: '1', next: '6' }), { written: false })
      t.same(await dataOf(store, key), { b: '5', __proto: '4', n: '6' })

      const before = (await metaOf(store, key)).authenticatedAt
      const at = await store.authenticate(key)
      t.ok(at! >= before)
      t.equal((await metaOf(store, key)).authenticatedAt, at)

      t.equal(await store.end(key), true)
      t.equal(await store.end(key), false)
      t.equal(await store.save(key, changes([['b', '7']])), undefined)
      t.equal(await store.authenticate(key), undefined)
      t.equal(await store.update(key, set), undefined)
      const renewal = { generation: 1, verifierHash: hash('2'), successor: 's', dataKey: undefined }
      t.match(await store.renew(key, renewal), { status: 'ended' })
      t.match(await store.replace(key, undefined), { status: 'ended' })
      t.same(await store.read(key), {})
    }
    t.same(await store.list(owner), [])
  })

  test(`${name}: a user's sessions are listed, bounded and revoked; no other user's`, async (t) => {
    const store = await open(t)
    const [owner, other] = [newOwner(), newOwner()]
    const [one, two, three, foreign] = [newKey(owner), newKey(owner), newKey(owner), newKey(other)]
    for (const key of [one, two]) await store.create(key, INPUT)
    await store.create(foreign, INPUT)
    const list = await store.list(owner)
    t.same(list.map(({ ref }) => ref).sort(), [one.ref, two.ref].sort())
    const { expiresAt, createdAt, seenAt, device } = list[0]!
    t.equal(device, 'a device')
    t.equal(seenAt, createdAt)
    t.equal(expiresAt - createdAt!, IDLE)
    t.same(await store.exist([one, three, foreign]), [true, false, true])

    const limit = { max: 2, endOldest: false }
    t.match(await store.create(three, { ...INPUT, limit }), { refused: true })
    t.same(await store.read(three), {})
    const replaces = two.ref
    t.match(await store.create(three, { ...INPUT, limit, replaces }), { ended: [] })
    await store.end(two)
    const four = newKey(owner)
    await store.save(one, changes([]))
    t.match(await store.create(four, { ...INPUT, limit: { ...limit, endOldest: true } }), {
      ended: [one.ref]
    })
    t.same(await store.read(one), {})

    t.same(await store.revoke(owner, [foreign.ref, three.ref, one.ref]), [three.ref])
    t.same(await store.exist([three, four, foreign]), [false, true, true])
    t.same(await store.revoke(owner, [four.ref]), [four.ref])
    t.same(await store.list(owner), [])
    t.equal((await store.list(other)).length, 1)
  })

  test(`${name}: a verifier is valid until its successor has come back and the grace is over`, async (t) => {
    const store = await open(t)
    const owner = newOwner()
    for (const end of [false, true]) {
      const key = newKey(owner)
      await store.create(key, INPUT)
      const token = (generation: number, grace: number, verifierHash = hash(String(generation))) => {
        const input: PresentInput = { generation, verifierHash, grace, endReused: end, adopt: false }
        return store.present(key, input).then(({ status }) => status)
      }
      const renew = (generation: number, successor: string | undefined, next = String(generation + 1)) =>
        store.renew(key, {
          generation,
          verifierHash: hash(next),
          successor,
          dataKey: `key ${generation}`
        })
      t.equal(await token(1, 0), 'current')
      t.equal(await token(1, 0, hash('x')), 'void')
      t.match(await renew(1, 'sealed'), { status: 'renewed' })
      t.match(await store.read(key), { '@s': 'sealed', '@k': 'key 1' })
      t.equal(await token(1, 0), 'previous', 'its successor was never presented')
      t.match(await renew(2, 'again'), { status: 'recent' })
      t.match(await renew(1, 'sealed'), { status: 'renewed' }, 'the same call, sent again')
      const raced = await renew(1, 'again', 'another')
      t.match(raced, { status: 'raced', generation: 2, successor: 'sealed' })
      t.equal(await token(2, 600_000), 'current')
      t.match(parseVerifier((await store.read(key))['@v']), { generation: 2, presented: true })
      t.equal(await token(1, 0), 'previous', 'within the grace')
      t.match(await renew(2, undefined), { status: 'renewed' })
      t.equal((await store.read(key))['@s'], undefined)
      t.equal(await token(2, 0), 'void', 'voided by an immediate renewal')
      t.equal(await token(3, 0), 'current')
      t.equal(await token(4, 0), 'void', 'of a renewal that the store does not know')
      t.match(await renew(3, 'next'), { status: 'renewed' })
      t.equal(await token(4, 0), 'current')
      await until(async () => (await token(3, 0)) === 'reused', { message: 'the grace is over' })
      t.same(Object.keys(await store.read(key)).length > 0, !end, 'it ends if that is wanted')
      t.equal((await store.list(owner)).length, 1, 'one that ended is not listed')
    }
    const key = newKey()
    await store.create(key, INPUT)
    const later = { generation: 7, verifierHash: hash('7'), grace: 600_000, endReused: true, adopt: true }
    t.match(await store.present(key, later), { status: 'current' })
    const before = { ...later, generation: 1, verifierHash: hash('1') }
    t.match(await store.present(key, before), { status: 'reused', fields: {} })
    t.same(await store.read(key), {})
  })

  test(`${name}: a session ends by its idle and its absolute timeout, its own or the store's`, async (t) => {
    const store = await open(t, 300)
    const owner = newOwner()
    const gone = async (key: SessionKey): Promise<boolean> => Object.keys(await store.read(key)).length === 0
    const [idle, own, absolute] = [newKey(owner), newKey(owner), newKey(owner)]
    await store.create(own, { ...INPUT, idleTimeout: 600_000, persistent: true })
    await store.create(absolute, { ...INPUT, idleTimeout: 600_000, absoluteTimeout: 300 })
    await store.create(idle, INPUT)
    await until(async () => (await gone(idle)) && (await gone(absolute)), { message: 'both end' })
    t.notOk(await gone(own))
    t.ok(await store.save(own, changes([])))
    t.match(await metaOf(store, own), { idleTimeout: 600_000, persistent: true })
    t.same(
      (await store.list(owner)).map(({ ref }) => ref),
      [own.ref]
    )
    t.equal(await store.save(idle, changes([['a', '2']])), undefined, 'it does not come back')
    const limit = { max: 2, endOldest: false }
    t.match(await store.create(newKey(owner), { ...INPUT, limit }), { ended: [] }, 'ended ones do not count')
  })

  test(`${name}: a session is replaced only as it was known, and hands back what it held`, async (t) => {
    const store = await open(t)
    const key = newKey()
    await store.create(key, INPUT)
    await store.save(key, changes([['b', '2']]))
    t.match(await store.replace(key, 1), { status: 'changed', fields: { a: '1', b: '2' } })
    t.match(await store.replace(key, 2), { status: 'replaced', fields: { a: '1', b: '2' } })
    t.same(Object.keys(await store.read(key)), ['@t'])
    t.equal(await store.save(key, changes([])), undefined)
    const other = newKey()
    await store.markReplaced(other)
    t.same(Object.keys(await store.read(other)), ['@t'])
    const ended = newKey()
    await store.create(ended, INPUT)
    await store.remove(ended)
    t.same(await store.read(ended), {})
  })
}

test('memory: sessions that have expired do not stay, although no request asks for them', async (t) => {
  const store = new MemoryStore(keys, new RedisClock(), { idleTimeout: 1, version: 1 })
  for (let n = 0; n < 1_000; n++) await store.create(newKey(n % 2 ? newOwner() : undefined), INPUT)
  await until(async () => {
    await store.create(newKey(), INPUT)
    return store.size < 10
  })
  t.pass()
})

async function memoryApp(session: Partial<SessionOptions> = {}) {
  const lines: { level: number; msg: string }[] = []
  const stream = { write: (line: string) => void lines.push(JSON.parse(line) as (typeof lines)[0]) }
  const one = Fastify({ forceCloseConnections: true, logger: { level: 'warn', stream } })
  await one.register(flotillaSession, {
    secret: SECRET,
    redis: false,
    cookie: { secure: 'auto' },
    ...session
  })
  addRoutes(one)
  return { app: one, lines }
}

test('redis: false holds sessions in memory, with all that they can do', async (t) => {
  for (const session of [{}, { encrypt: true }, { local: {}, durable: {} }] as const) {
    const { app: one, lines } = await memoryApp({ ...session, maxPerUser: { max: 3 } })
    const { browser } = await serve(t, one)
    const visitor = browser()
    await visitor.post('/push', { items: ['book'] })
    const anonymous = visitor.clone()
    await visitor.post('/login', { userId: 'ada', label: 'mine' })
    t.same((await visitor.get('/data')).body, { cart: { items: ['book'] } })
    t.same((await anonymous.get('/data')).body, {}, 'the id from before the login is dead')
    await Promise.all(Array.from({ length: 20 }, () => visitor.clone().post('/update/count')))
    t.equal((await visitor.get('/data')).body['count'], 20)
    const old = visitor.clone()
    t.equal((await visitor.post('/renew')).status, 200)
    t.not(visitor.cookie, old.cookie)
    t.equal((await visitor.get('/me')).body['userId'], 'ada')
    t.equal((await old.get('/me')).body['userId'], 'ada', 'within the grace')

    for (let n = 0; n < 3; n++) await browser().post('/login', { userId: 'ada' })
    t.equal(await one.sessions.count('ada'), 3)
    t.equal((await visitor.get('/me')).body['userId'], null, 'the oldest has ended')
    await visitor.post('/login', { userId: 'ada' })
    t.equal((await visitor.post('/revoke-all')).body['revoked'], 2)
    await visitor.post('/regenerate', { keep: [] })
    t.equal(await one.sessions.count('ada'), 0)
    const replay = visitor.clone()
    await visitor.post('/logout')
    t.same((await replay.get('/data')).body, {})
    t.same(lines, [], 'outside of production there is nothing to warn of')
  }
})

test('redis: false in production is warned of, once', async (t) => {
  const before = process.env['NODE_ENV']
  t.teardown(() => {
    if (before === undefined) delete process.env['NODE_ENV']
    else process.env['NODE_ENV'] = before
  })
  process.env['NODE_ENV'] = 'production'
  const { app: one, lines } = await memoryApp()
  t.teardown(() => one.close())
  await one.ready()
  t.equal(lines.length, 1)
  t.match(lines[0], { level: 40, msg: /redis: false.*@flotilla\/redis/ })
})

test('without Redis and without redis: false the error names both ways out', async (t) => {
  const one = Fastify()
  t.teardown(() => one.close())
  await t.rejects(async () => one.register(flotillaSession, { secret: SECRET }), {
    code: 'FLOTILLA_REDIS_ERR_NO_CLIENT',
    message: /register @flotilla\/redis.*redis: false/
  })
})
