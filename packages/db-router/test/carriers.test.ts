import { flotillaRedis } from '@flotilla/redis'
import { startPostgres, startRedis } from '@flotilla/testbed'
import type { FastifyInstance, InjectOptions } from 'fastify'
import type { OutgoingHttpHeaders } from 'node:http'
import t, { type Test } from 'tap'
import type { Carrier, DbRouterOptions } from '../src/index.js'
import { createTokenCodec } from '../src/token.js'
import { createApp, secret } from './fixtures/app-in-process.js'

const postgres = await startPostgres({ replicas: 1 })
const redis = await startRedis()
t.teardown(() => Promise.all([postgres.stop(), redis.stop()]))
const { primary, replicas } = postgres
const replica = replicas[0]!
await primary.query('create table values_of (who text primary key, value int)')
await postgres.waitForCatchUp()
// Late enough that an ungated read would be stale each time.
await replica.setDelay(1_000)

type Headers = OutgoingHttpHeaders

function routes(app: FastifyInstance): void {
  app.post<{ Params: { who: string; value: number } }>('/:who/:value', async (request) => {
    const { who, value } = request.params
    await request.db.write.query(
      'insert into values_of values ($1, $2) on conflict (who) do update set value = excluded.value',
      [who, value]
    )
    return { token: request.db.token() }
  })
  app.get<{ Params: { who: string } }>('/:who', async (request) => {
    const { rows } = await request.db.read.query(
      'select value, pg_is_in_recovery() as replica from values_of where who = $1',
      [request.params.who]
    )
    return rows[0] ?? { value: 0 }
  })
  app.get('/nothing', async () => ({}))
}

const options = (more: Partial<DbRouterOptions>): DbRouterOptions => ({
  primary: primary.url,
  replicas: [replica.url],
  maxLag: '20s',
  ...more
})

/** Tokens of a large fleet, for positions that any replica has long had. */
function tokensOfOld(token: string): string[] {
  const codec = createTokenCodec(secret)
  const position = codec.decode(token)!
  return Array.from({ length: 40 }, (_none, n) => codec.encode({ ...position, lsn: BigInt(n + 1) }))
}

/** Writes through one instance and reads through another, with whatever `carry` takes from the answer. */
async function roundTrips(
  t: Test,
  [writer, reader]: [FastifyInstance, FastifyInstance],
  who: string,
  carry: (headers: Headers) => InjectOptions['headers']
): Promise<void> {
  let headers: InjectOptions['headers'] = carry({})
  for (let value = 1; value <= 5; value++) {
    const written = await writer.inject({ method: 'POST', url: `/${who}/${value}`, headers: headers ?? {} })
    t.equal(written.statusCode, 200)
    headers = carry(written.headers)
    const read = await reader.inject({ url: `/${who}`, headers: headers ?? {} })
    t.equal(read.json().value, value, 'read back through the other instance')
  }
}

const pair = async (
  t: Test,
  more: Partial<DbRouterOptions>,
  before?: (app: FastifyInstance) => unknown,
  after?: (app: FastifyInstance) => unknown
): Promise<[FastifyInstance, FastifyInstance]> => {
  const one = async (): Promise<FastifyInstance> => {
    const { default: Fastify } = await import('fastify')
    const { default: plugin } = await import('../src/index.js')
    const app = Fastify({ forceCloseConnections: true })
    t.teardown(() => app.close())
    await before?.(app)
    await app.register(plugin, options({ secret, ...more }))
    await after?.(app)
    routes(app)
    await app.ready()
    return app
  }
  return [await one(), await one()]
}

t.test('cookie', async (sub) => {
  const apps = await pair(sub, {})
  const jar = (headers: Headers): InjectOptions['headers'] => {
    const cookie = [headers['set-cookie'] ?? []]
      .flat()
      .map((one) => one.split(';')[0])
      .join('; ')
    return cookie ? { cookie } : {}
  }
  await roundTrips(sub, apps, 'cookie', jar)
  const written = await apps[0].inject({ method: 'POST', url: '/cookie/9' })
  sub.match(
    String(written.headers['set-cookie']),
    /^flotilla-db-[0-9a-f]{8}=[\w-]+\.[\w-]{43}; Max-Age=60; Path=\/; HttpOnly; SameSite=Lax$/
  )
  sub.equal((await apps[0].inject('/cookie')).headers['set-cookie'], undefined, 'a read sets none')
  sub.equal((await apps[0].inject('/nothing')).headers['set-cookie'], undefined)

  sub.test('answers that overtake each other, and several instances', async (inner) => {
    // The tokens of two instances stand side by side; the later one counts, in whatever order they come.
    const first = await apps[0].inject({ method: 'POST', url: '/overtaken/1' })
    const second = await apps[1].inject({ method: 'POST', url: '/overtaken/2' })
    const cookies = [first, second].map((one) => String(one.headers['set-cookie']).split(';')[0])
    inner.not(cookies[0]!.split('=')[0], cookies[1]!.split('=')[0])
    for (const cookie of [cookies.join('; '), cookies.toReversed().join('; ')]) {
      inner.equal((await apps[0].inject({ url: '/overtaken', headers: { cookie } })).json().value, 2)
    }
  })
  await sub.test('a large fleet: the token that came last counts, behind all the others', async (inner) => {
    const wrote = await apps[0].inject({ method: 'POST', url: '/fleet/1' })
    const cookie = [
      ...tokensOfOld(wrote.json().token).map((token, n) => `flotilla-db-${10_000_000 + n}=${token}`),
      String(wrote.headers['set-cookie']).split(';')[0]
    ].join('; ')
    inner.equal((await apps[1].inject({ url: '/fleet', headers: { cookie } })).json().value, 1)
  })
  await sub.test('forged and broken cookies are ignored: no error, no load on the primary', async (inner) => {
    const codec = createTokenCodec('another secret, of thirty-two bytes!')
    const position = createTokenCodec(secret).decode(apps[0].db.token())!
    const bad = [
      'x',
      '',
      '%E0%A4%A',
      'a'.repeat(4_000),
      codec.encode({ ...position, lsn: 0xffffffffffffffffn })
    ]
    for (const value of bad) {
      const read = await apps[0].inject({
        url: '/cookie',
        headers: { cookie: `flotilla-db-1=${value}; other=1` }
      })
      inner.equal(read.statusCode, 200)
      inner.not(read.json().replica, false, 'from the replica')
    }
  })
})

t.test('header', async (sub) => {
  const apps = await pair(sub, { carrier: 'header', header: 'X-Seen' })
  await roundTrips(sub, apps, 'header', (headers) =>
    headers['x-seen'] ? { 'x-seen': headers['x-seen'] } : {}
  )
  const first = await apps[0].inject({ method: 'POST', url: '/listed/1' })
  const second = await apps[1].inject({ method: 'POST', url: '/listed/2' })
  const both = [first, second].map((one) => one.headers['x-seen']).join(', ')
  sub.equal((await apps[0].inject({ url: '/listed', headers: { 'x-seen': both } })).json().value, 2)
  sub.equal((await apps[0].inject({ url: '/listed', headers: { 'x-seen': 'junk, ,,' } })).statusCode, 200)
  const third = await apps[0].inject({ method: 'POST', url: '/listed/3' })
  const all = [...tokensOfOld(third.json().token), third.headers['x-seen']].join(',')
  sub.equal((await apps[1].inject({ url: '/listed', headers: { 'x-seen': all } })).json().value, 3)
})

t.test('session', async (sub) => {
  // What a session plugin offers, with one store for both instances.
  const store = new Map<string, unknown>()
  const session = {
    get: (key: string) => store.get(key),
    set: (key: string, value: unknown) => store.set(key, value)
  }
  const updating = {
    ...session,
    update: async (key: string, change: (old: unknown) => unknown) => store.set(key, change(store.get(key)))
  }
  for (const kind of [session, updating]) {
    const apps = await pair(sub, { carrier: 'session' }, (app) => {
      app.decorateRequest('session', { getter: () => kind })
    })
    await roundTrips(sub, apps, 'session', () => ({}))
  }
  sub.equal(store.size, 1)

  await sub.test('one that can not be read yet: what it holds is unknown', async (inner) => {
    const unread = {
      get: () => {
        throw new Error('not read yet')
      }
    }
    const [app] = await pair(inner, { carrier: 'session' }, (one) => {
      one.decorateRequest('session', { getter: () => unread })
    })
    const read = await app.inject('/session')
    inner.strictSame([read.statusCode, read.json().replica], [200, false])
  })
})

t.test('who somebody is comes out in a hook that reads the database itself', async (sub) => {
  interface Known {
    session?: object | undefined
    who?: string | undefined
  }
  const store = new Map<string, unknown>()
  const session = {
    get: (key: string) => store.get(key),
    set: (key: string, value: unknown) => store.set(key, value)
  }
  const before = async (app: FastifyInstance): Promise<void> => {
    await app.register(flotillaRedis, { url: redis.url })
    app.decorateRequest('session')
    app.decorateRequest('who')
  }
  const authenticate = (app: FastifyInstance): void => {
    app.addHook('onRequest', async (request) => {
      await request.db.read.query('select 1')
      Object.assign(request as Known, { session, who: 'ann' })
    })
  }
  const user: DbRouterOptions['user'] = (request) => (request as Known).who
  for (const carrier of ['redis', 'session'] as const) {
    const apps = await pair(sub, { carrier, ...(carrier === 'redis' && { user }) }, before, authenticate)
    await roundTrips(sub, apps, `late-${carrier}`, () => ({}))
  }
})

t.test('Redis, by user', async (sub) => {
  const user: DbRouterOptions['user'] = (request) => request.headers['x-user'] as string | undefined
  const withRedis = async (app: FastifyInstance): Promise<void> => {
    await app.register(flotillaRedis, { url: redis.url })
  }
  const apps = await pair(sub, { carrier: 'redis', user }, withRedis)
  await roundTrips(sub, apps, 'redis', () => ({ 'x-user': 'ann' }))
  const anonymous = await apps[0].inject({ method: 'POST', url: '/redis/9' })
  sub.equal(anonymous.statusCode, 200)

  await sub.test('the later position stays, whichever comes last', async (inner) => {
    const { redisCarrier } = await import('../src/carriers/redis.js')
    const codec = createTokenCodec(secret)
    const carrier = redisCarrier(apps[0].redis as never, codec, {
      user: () => 'merge',
      keyPrefix: 'test:',
      ttl: 60_000
    })
    const at = (timeline: number, lsn: bigint): string => codec.encode({ systemId: 5n, timeline, lsn })
    for (const token of [at(1, 0xffffffffn), at(1, 0x1_0000_0000n), at(1, 5n)])
      await carrier.store(null as never, null as never, token)
    inner.strictSame(await carrier.load(null as never), [at(1, 0x1_0000_0000n)])
    await carrier.store(null as never, null as never, at(2, 1n))
    await carrier.store(null as never, null as never, at(1, 0xffff_ffff_ffffn))
    inner.strictSame(await carrier.load(null as never), [at(2, 1n)], 'a later timeline counts more')
  })
  await sub.test('Redis away: reads go to the primary, writes still succeed', async (inner) => {
    await redis.kill()
    const read = await apps[0].inject({ url: '/redis', headers: { 'x-user': 'ann' } })
    inner.equal(read.statusCode, 200)
    inner.equal(read.json().replica, false, 'what ann wrote is unknown')
    const written = await apps[0].inject({ method: 'POST', url: '/redis/10', headers: { 'x-user': 'ann' } })
    inner.equal(written.statusCode, 200)
    await redis.restart()
  })
})

t.test('a carrier of one’s own, and none', async (sub) => {
  const kept: string[] = []
  const carrier: Carrier = { load: () => kept, store: (_request, _reply, token) => void kept.push(token) }
  await roundTrips(sub, await pair(sub, { carrier }), 'own', () => ({}))
  sub.equal(kept.length, 5)
  const app = await createApp(sub, options({ carrier: false }), routes)
  const written = await app.inject({ method: 'POST', url: '/none/1' })
  sub.equal(written.headers['set-cookie'], undefined)
  sub.ok(written.json().token, 'the token is there for whoever passes it on')
})
