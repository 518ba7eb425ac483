import { startPgBouncer, startPostgres, startProxy, until, type PostgresServer } from '@flotilla/testbed'
import Fastify, { type FastifyInstance } from 'fastify'
import { once } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { inspect } from 'node:util'
import { Client } from 'pg'
import t from 'tap'
import flotillaDbRouter, { flotillaDbRouter as named, type DbRouterOptions } from '../src/index.js'
import { createTokenCodec } from '../src/token.js'
import { codeOf, createApp, secret } from './fixtures/app-in-process.js'
import { startRelay } from './fixtures/relay.js'

const url = 'postgres://user:secret-password@127.0.0.1:1/app'

const registering = async (options: unknown): Promise<string | undefined> => {
  const app = Fastify()
  try {
    await app.register(flotillaDbRouter, options as DbRouterOptions)
    await app.ready()
    return undefined
  } catch (error) {
    const { code, message } = error as Error & { code?: string }
    return `${code} ${message}`
  } finally {
    await app.close()
  }
}

t.test('a wrong option fails register before anything is opened, and is named', async (sub) => {
  const wrong: [unknown, RegExp][] = [
    [{}, /'primary'/],
    [{ primary: 'mysql://a/b' }, /'primary'/],
    [{ primary: [] }, /'primary'/],
    [{ primary: 'not a url' }, /'primary'/],
    [
      { primary: undefined },
      /'primary' must be a postgres:\/\/ URL .* got undefined: .* environment variable/
    ],
    [{ primary: '' }, /'primary' must be .* got '': .* environment variable/],
    [{ primary: url, replicas: [undefined] }, /'replicas\[0\]' .* got undefined: .* environment variable/],
    [{ primary: [url, null] }, /'primary\[1\]' .* got null$/],
    [{ primary: url, replicas: [url, ''] }, /'replicas\[1\]' .* got '': .* environment variable/],
    [{ primary: url, replicas: [5] }, /'replicas\[0\]' .* got a number that names none$/],
    [{ primary: url.replace('postgres:', 'mysql:') }, /'primary' .* got a string that names none$/],
    [{ primary: url, replicas: [{ user: 'one' }] }, /'replicas\[0\]' .* got an object that names none$/],
    [{ primary: url, replicas: [url], secret }, /listed twice/],
    [{ primary: url, replicas: ['postgres://other@127.0.0.1:2/app'] }, /'secret'/],
    [{ primary: url, secret: 'short' }, /'secret'/],
    [{ primary: url, maxLagg: 5 }, /maxLagg/],
    [{ primary: url, pool: { maxx: 5 } }, /pool\.maxx/],
    [{ primary: url, pool: { max: 0 } }, /pool\.max/],
    [{ primary: url, maxLag: '10' }, /maxLag/],
    [{ primary: url, maxLag: '2m', tokenTtl: '1m' }, /tokenTtl/],
    [{ primary: url, consistency: true, carrier: 'pigeon' }, /carrier/],
    [{ primary: url, route: 'guess' }, /route/],
    [{ primary: url, route: 'auto' }, /autoRoute\(\) of '@flotilla\/db-router\/auto', got 'auto'/],
    [{ primary: url, route: null }, /'route'/],
    [{ primary: url, route: { isPureRead: true } }, /'route'/],
    [{ primary: url, timeout: -1 }, /timeout/],
    [{ primary: url, name: 'a b' }, /'name'/]
  ]
  for (const [options, expected] of wrong) {
    const message = await registering(options)
    sub.match(message, expected)
    sub.match(message, /^FLOTILLA_DB_ERR_OPTION/)
    sub.notMatch(message, /secret-password/)
  }
  sub.match(
    await registering({ primary: url, consistency: true, carrier: 'redis' }),
    /^FLOTILLA_REDIS_ERR_NO_CLIENT/,
    'a carrier without its Redis'
  )
})

t.test('default and named export are the same', async (sub) => {
  sub.equal(flotillaDbRouter, named)
})

const postgres = await startPostgres({ replicas: 1 })
t.teardown(() => postgres.stop())
const { primary, replicas } = postgres
const replica = replicas[0]!
const changed = (url: string, change: (url: URL) => void): string => {
  const copy = new URL(url)
  change(copy)
  return copy.href
}
const fast = { monitor: { interval: 50, timeout: 2_000 }, primaryWait: 200, secret }

t.test('twice in one scope is refused; two apps share nothing', async (sub) => {
  const app = await createApp(sub, { primary: primary.url })
  const other = await createApp(sub, { primary: primary.url, replicas: [replica.url] })
  await app.db.write.query('select 1')
  sub.equal(other.db.token(), undefined)
  sub.equal(app.db.token(), undefined, 'without replicas nothing is asked for')
  const twice = Fastify()
  sub.teardown(() => twice.close())
  await twice.register(flotillaDbRouter, { primary: primary.url })
  sub.equal(
    await codeOf(Promise.resolve(twice.register(flotillaDbRouter, { primary: primary.url }))),
    'FLOTILLA_DB_ERR_ALREADY_REGISTERED'
  )
})

t.test('swapped URLs work all the same: roles are observed', async (sub) => {
  const app = await createApp(sub, { primary: replica.url, replicas: [primary.url], ...fast })
  sub.equal(app.db.status().primary, `127.0.0.1:${primary.port}/app`)
  sub.equal((await app.db.write.query('select inet_server_port() as port')).rows[0]!['port'], primary.port)
  sub.equal((await app.db.read.query('select inet_server_port() as port')).rows[0]!['port'], replica.port)
})

t.test('a primary that is a replica: reads work, writes say why not', async (sub) => {
  const app = await createApp(sub, { primary: replica.url, ...fast, replicas: [] })
  sub.equal(await codeOf(app.db.write.query('select 1')), 'FLOTILLA_DB_ERR_NO_PRIMARY')
  sub.equal(await codeOf(app.db.read.query('select 1')), undefined)
})

t.test(
  'a wrong password for the primary fails register; for a replica it is that replica’s loss',
  async (sub) => {
    const wrong = (url: string): string => changed(url, (one) => (one.password = 'wrong'))
    sub.match(await registering({ primary: wrong(primary.url) }), /^FLOTILLA_DB_ERR_START .*password/)
    const app = await createApp(sub, { primary: primary.url, replicas: [wrong(replica.url)], ...fast })
    sub.match(app.db.status().servers[1], { state: 'down', reason: /password/ })
    sub.equal(await codeOf(app.db.read.query('select 1')), undefined)
  }
)

t.test('no password, or TLS that the server does not speak, fails register and says which', async (sub) => {
  const without = changed(primary.url, (one) => (one.password = ''))
  sub.match(
    await registering({ primary: without }),
    /^FLOTILLA_DB_ERR_START .*password must be a string.*sslmode/
  )
  const withTls = changed(primary.url, (one) => one.searchParams.set('sslmode', 'verify-full'))
  sub.match(await registering({ primary: withTls }), /^FLOTILLA_DB_ERR_START .*does not support SSL.*sslmode/)
})

t.test('without a primary the error carries why, and no password', async (sub) => {
  const nobody = 'postgres://user:secret-password@127.0.0.1:1/app'
  const app = await createApp(sub, { primary: nobody, ...fast })
  const error = await app.db.write.query('select 1').catch((one: unknown) => one)
  sub.match(error, { code: 'FLOTILLA_DB_ERR_NO_PRIMARY', cause: { code: 'ECONNREFUSED' } })
  sub.notMatch(inspect(error, { depth: 10 }), /secret-password/)
})

t.test('unreachable servers, and one that accepts and never answers', async (sub) => {
  const silent = createServer(() => {}).listen(0, '127.0.0.1')
  await once(silent, 'listening')
  sub.teardown(() => silent.close())
  const mute = `postgres://postgres@127.0.0.1:${(silent.address() as AddressInfo).port}/app`
  const started = performance.now()
  const app = await createApp(sub, {
    primary: primary.url,
    replicas: ['postgres://postgres@127.0.0.1:1/app', mute],
    ...fast
  })
  sub.ok(performance.now() - started < 15_000, 'the start is bounded')
  sub.strictSame(
    app.db.status().servers.map((one) => one.state),
    ['up', 'down', 'down']
  )
  sub.equal(await codeOf(app.db.read.query('select 1')), undefined)
  const none = await createApp(sub, { primary: mute, ...fast })
  sub.equal(await codeOf(none.db.write.query('select 1')), 'FLOTILLA_DB_ERR_NO_PRIMARY')
  sub.equal(await codeOf(none.db.read.query('select 1')), 'FLOTILLA_DB_ERR_NO_PRIMARY')
})

/** Without looks of its own accord: none is then under way when its connection is ended. */
const unaware = {
  ...fast,
  monitor: { interval: '1h', timeout: 2_000 },
  tokenTtl: '4h',
  carrier: false
} as const

/** Has an app look at its servers, as a token of a promotion that nobody has seen does. */
async function lookNow({ db }: FastifyInstance): Promise<void> {
  await db.write.query('select 1')
  const codec = createTokenCodec(secret)
  const known = codec.decode(db.token())!
  const later = codec.encode({ ...known, timeline: known.timeline + 1 })
  await codeOf(db.read.after(later).query('select 1'))
}

/** Ends what a monitor has connected as `role`. */
async function endMonitor(server: PostgresServer, role: string): Promise<void> {
  const { rowCount } = await server.admin.query(
    `select pg_terminate_backend(pid, 5000) from pg_stat_activity
     where usename = $1 and query ~ 'flotilla: (monitor|probe)'`,
    [role]
  )
  if (rowCount !== 1) throw new Error(`${rowCount} monitors of ${role}`)
}

/** Ends what the monitors of an app have connected as `role`, and has them refused again and again. */
async function refuseMonitors(app: FastifyInstance, role: string, refusal: string): Promise<void> {
  for (const server of [primary, replica]) await endMonitor(server, role)
  const refusedBy = (server: PostgresServer): number => server.output().split(refusal).length - 1
  await until(
    async () => {
      await lookNow(app)
      return refusedBy(primary) >= 3 && refusedBy(replica) >= 3
    },
    { timeout: 30_000, message: 'the monitors are refused again and again' }
  )
}

const as = (role: string, url: string): string =>
  changed(url, (one) => {
    one.username = role
    one.password = 'one'
  }).replace('postgres:', 'postgresql:')

for (const [what, role, statement, refusal] of [
  [
    'credentials that stop working',
    'clerk',
    "password 'two'",
    'password authentication failed for user "clerk"'
  ],
  ['no slot left for a monitor', 'tenant', 'connection limit 1', 'too many connections for role "tenant"']
] as const) {
  t.test(`${what}: what is connected goes on`, async (sub) => {
    await primary.admin.query(`create role ${role} login password 'one'`)
    await postgres.waitForCatchUp()
    const app = await createApp(sub, {
      primary: as(role, primary.url),
      replicas: [as(role, replica.url)],
      ...unaware,
      maxLag: '10m'
    })
    const { db } = app
    await db.write.query('select 1')
    await db.read.query('select 1')
    await primary.admin.query(`alter role ${role} ${statement}`)
    await postgres.waitForCatchUp()
    await refuseMonitors(app, role, refusal)
    for (let n = 0; n < 10; n++) {
      sub.equal(await codeOf(db.write.query('select 1')), undefined)
      sub.strictSame((await db.session().read.query('select pg_is_in_recovery() as r')).rows, [{ r: true }])
    }
    sub.strictSame(
      db.status().servers.map(({ role: seen, state }) => [seen, state]),
      [
        ['primary', 'up'],
        ['replica', 'up']
      ]
    )
    await primary.admin.query(`alter role ${role} password 'one' connection limit -1`)
    await until(
      async () => {
        await lookNow(app)
        return db.status().servers.every(({ reason }) => reason === undefined)
      },
      { message: 'they are looked at again' }
    )
  })
}

t.test('a replica that nobody could look at for as long as it may lag is left alone', async (sub) => {
  await primary.admin.query("create role guest login password 'one'")
  await postgres.waitForCatchUp()
  const app = await createApp(sub, {
    primary: primary.url,
    replicas: [as('guest', replica.url)],
    ...unaware,
    maxLag: 300
  })
  const read = async (): Promise<unknown> =>
    (await app.db.session().read.query('select pg_is_in_recovery() as replica')).rows[0]
  sub.strictSame(await read(), { replica: true })
  await primary.admin.query('alter role guest connection limit 1')
  await postgres.waitForCatchUp()
  await endMonitor(replica, 'guest')
  await until(
    async () => {
      await lookNow(app)
      return app.db.status().servers[1]!.state === 'down'
    },
    { message: 'it is left alone' }
  )
  sub.match(app.db.status().servers[1], { reason: /too many connections/ })
  sub.strictSame(await read(), { replica: false })
})

t.test('a read does not wait for a replica that nobody could look at', async (sub) => {
  await primary.admin.query("create role visitor login password 'one'")
  await postgres.waitForCatchUp()
  const app = await createApp(sub, {
    primary: primary.url,
    replicas: [as('visitor', replica.url)],
    ...unaware,
    maxLag: '10m',
    maxWait: '10s'
  })
  await app.db.read.query('select 1')
  await primary.admin.query('alter role visitor connection limit 1')
  await postgres.waitForCatchUp()
  await endMonitor(replica, 'visitor')
  for (const what of ['the first to find out', 'one that knows it']) {
    const { write, read } = app.db.session()
    await write.query("select pg_logical_emit_message(true, 'news', 'x')")
    const { rows } = await read.query('select pg_is_in_recovery() as replica', [], {
      signal: AbortSignal.timeout(5_000)
    })
    sub.strictSame(rows, [{ replica: false }], what)
  }
  sub.match(app.db.status().servers[1], { state: 'up', reason: /too many connections/ })
})

t.test('no place left for a monitor at PgBouncer: what is connected goes on', async (sub) => {
  const bouncer = await startPgBouncer({ target: primary })
  sub.teardown(() => bouncer.stop())
  const console = new Client({ connectionString: bouncer.consoleUrl })
  console.on('error', () => {})
  await console.connect()
  sub.teardown(() => console.end())
  const ends: Socket[] = []
  const port = await startRelay(sub, bouncer, (client) => void ends.push(client))
  const { db } = await createApp(sub, {
    primary: bouncer.url.replace(`:${bouncer.port}/`, `:${port}/`),
    ...fast
  })
  await db.write.query('select 1')
  // The console's, and the one that the app has besides its monitor's.
  await console.query('set max_client_conn = 2')
  ends[0]!.destroy()
  const refused = (): number => bouncer.output().split('no more connections allowed').length - 1
  await until(() => refused() >= 3, { message: 'the monitor is refused again and again' })
  for (let n = 0; n < 10; n++) sub.equal(await codeOf(db.write.query('select 1')), undefined)
})

t.test(
  'credentials that stop working, and connections with them: coded, and over once they work',
  async (sub) => {
    await primary.admin.query("create role porter login password 'one'")
    await postgres.waitForCatchUp()
    const app = await createApp(sub, {
      primary: as('porter', primary.url),
      replicas: [as('porter', replica.url)],
      ...fast
    })
    await app.db.write.query('select 1')
    await app.db.read.query('select 1')
    await primary.admin.query("alter role porter password 'two'")
    await postgres.waitForCatchUp()
    await primary.terminateConnections()
    await replica.terminateConnections()
    const tell = async (): Promise<void> => {
      for (const query of [app.db.write.query, app.db.read.query]) {
        const error = await query('select 1').catch((one: unknown) => one as Error & { code: string })
        sub.match(error, { code: /^(28P01|FLOTILLA_DB_ERR_(UNAVAILABLE|NO_PRIMARY|OUTCOME_UNKNOWN))$/ })
      }
    }
    await tell()
    await tell()
    await primary.admin.query("alter role porter password 'one'")
    await postgres.waitForCatchUp()
    for (const query of [app.db.write.query, app.db.read.query]) {
      await until(async () => (await codeOf(query('select 1'))) === undefined, { message: 'it works again' })
    }
    sub.equal(app.db.status().primary, `127.0.0.1:${primary.port}/app`)
  }
)

t.test('another server behind the same address', async (sub) => {
  // A virtual address that moves from the primary to the replica: what was seen of one is not believed of the other.
  const proxy = await startProxy(replica)
  sub.teardown(() => proxy.stop())
  const app = await createApp(sub, { primary: primary.url, replicas: [proxy.through(replica.url)], ...fast })
  await primary.query('create table if not exists moved (n int)')
  for (let n = 1; n <= 20; n++) {
    const job = app.db.session()
    await job.write.query('insert into moved values ($1)', [n])
    if (n === 10) {
      proxy.redirect(primary)
      proxy.cut()
    }
    sub.equal((await job.read.query('select max(n)::int as n from moved')).rows[0]!['n'], n)
  }
})

t.test('health: checks that look at what was seen', async (sub) => {
  const checks = new Map<string, () => unknown>()
  const app = Fastify({ forceCloseConnections: true })
  sub.teardown(() => app.close())
  app.decorate('health', {
    state: 'ready',
    addCheck: (name: string, check: () => unknown) => checks.set(name, check),
    onDrain: () => {}
  })
  await app.register(flotillaDbRouter, { primary: primary.url, replicas: [replica.url], ...fast })
  await app.ready()
  sub.strictSame([...checks.keys()].sort(), ['db', 'db-primary', 'db-replicas'])
  sub.match(checks.get('db')!(), { ok: true })
  sub.match(checks.get('db-primary')!(), { details: { inFlight: 0 } })
  sub.match(checks.get('db-replicas')!(), { ok: true, details: { usable: 1, listed: 1 } })
})

t.test('two databases in scopes beside each other do not meet', async (sub) => {
  const names: string[] = []
  const app = Fastify({ forceCloseConnections: true })
  sub.teardown(() => app.close())
  app.decorate('health', {
    state: 'ready',
    addCheck: (name: string) => {
      if (names.includes(name)) throw new Error(`A check named '${name}' exists`)
      names.push(name)
    },
    onDrain: () => {}
  })
  for (const options of [{}, { name: 'reports' }]) {
    await app.register(async (scope) => {
      scope.post(
        `/${options.name ?? 'db'}`,
        async (request) => (await request.db.write.query('select 1')).rows
      )
      await scope.register(flotillaDbRouter, {
        primary: primary.url,
        replicas: [replica.url],
        ...fast,
        ...options
      })
    })
  }
  await app.ready()
  sub.strictSame(names.sort(), [
    'db',
    'db-primary',
    'db-replicas',
    'reports',
    'reports-primary',
    'reports-replicas'
  ])
  for (const name of ['db', 'reports']) {
    const { headers } = await app.inject({ method: 'POST', url: `/${name}` })
    sub.match(headers['set-cookie'], new RegExp(`^flotilla-${name}-`))
  }
})
