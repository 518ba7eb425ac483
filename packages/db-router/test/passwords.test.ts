import { startPostgres, until, type PostgresServer } from '@flotilla/testbed'
import type { Socket } from 'node:net'
import { setTimeout as after } from 'node:timers/promises'
import { Pool, type ClientConfig } from 'pg'
import t, { type Test } from 'tap'
import { codeOf, createApp } from './fixtures/app-in-process.js'
import { startRelay } from './fixtures/relay.js'

// A server that demands SCRAM of a role that may do nothing but use its own tables.
const postgres = await startPostgres({ replicas: 1 })
t.teardown(() => postgres.stop())
const { primary } = postgres
const replica = postgres.replicas[0]!
await primary.admin.query("create role visitor login password 'first'")
await primary.query('create table items (id int)')
await primary.query('grant select, insert on items to visitor')
await postgres.waitForCatchUp()

const connectionTo = (server: PostgresServer): ClientConfig => ({
  host: server.host,
  port: server.port,
  database: server.database,
  user: 'visitor'
})

const setPassword = (password: string): Promise<unknown> =>
  primary.admin.query(`alter role visitor password '${password}'`)

/** The sessions of `visitor` that the primary has. */
async function sessions(): Promise<number> {
  const { rows } = await primary.admin.query<{ n: number }>(
    "select count(*)::int as n from pg_stat_activity where usename = 'visitor'"
  )
  return rows[0]!.n
}

t.test('a connection object with a password', async (sub) => {
  const app = await createApp(sub, {
    primary: { ...connectionTo(primary), password: 'first' },
    replicas: [{ ...connectionTo(replica), password: 'first' }]
  })
  await app.db.write.query('insert into items values (1)')
  sub.equal((await app.db.read.query('select id from items')).rows.length, 1)
  sub.equal((await app.db.transaction(async (tx) => (await tx.query('select 1 as one')).rows[0]))!['one'], 1)
  sub.strictSame(
    app.db.status().servers.map(({ state }) => state),
    ['up', 'up']
  )
})

t.test('a password that is not enumerable, as in the options of a pg pool', async (sub) => {
  const { options } = new Pool({ ...connectionTo(primary), password: 'first' })
  const app = await createApp(sub, { primary: options })
  sub.equal((await app.db.write.query('select 1 as one')).rows[0]!['one'], 1)
})

t.test('a password beside a URL that has none', async (sub) => {
  const connectionString = `postgres://visitor@${primary.host}:${primary.port}/${primary.database}`
  const app = await createApp(sub, { primary: { connectionString, password: () => 'first' } })
  sub.equal((await app.db.write.query('select 1 as one')).rows[0]!['one'], 1)
})

t.test('a password function is asked for each new connection', async (sub) => {
  let asked = 0
  let current = 'first'
  const password = async (): Promise<string> => {
    asked++
    return current
  }
  const app = await createApp(sub, { primary: { ...connectionTo(primary), password }, pool: { max: 4 } })
  const four = (): Promise<unknown> =>
    Promise.all(Array.from({ length: 4 }, () => app.db.write.query('select pg_sleep(0.1)')))
  await four()
  // Four of the pool, and the monitor's.
  sub.equal(asked, 5)

  // Rotated: what is connected goes on, what is new uses the new one.
  await setPassword('second')
  current = 'second'
  sub.teardown(() => setPassword('first'))
  sub.equal(await codeOf(four()), undefined)
  sub.equal(asked, 5)
  await primary.terminateConnections()
  await until(async () => (await codeOf(four())) === undefined, { message: 'the new password serves' })
})

t.test('a password that is neither text nor a function fails register', async (sub) => {
  const password = 5 as unknown as string
  sub.equal(
    await codeOf(createApp(sub, { primary: { ...connectionTo(primary), password } })),
    'FLOTILLA_DB_ERR_OPTION'
  )
})

interface Watched {
  readonly port: number
  /** Connections made so far. */
  made: () => number
  /** Connections that are open. */
  open: () => number
}

async function watch(sub: Test): Promise<Watched> {
  const sockets = new Set<Socket>()
  let made = 0
  const port = await startRelay(sub, primary, (client) => {
    made++
    sockets.add(client)
    client.on('close', () => sockets.delete(client))
  })
  return { port, made: () => made, open: () => sockets.size }
}

t.test('credentials that are not to be had: few sockets, none left, 503 with Retry-After', async (sub) => {
  const { port, made, open } = await watch(sub)
  let current: string | undefined
  const password = async (): Promise<string> => {
    if (current === undefined) throw new Error('the vault with the-secret-path is away')
    return current
  }
  const app = await createApp(sub, {
    primary: { ...connectionTo(primary), port, password },
    primaryWait: '2s',
    // The monitor's own connections would be counted too.
    monitor: { interval: '20s', timeout: '1s' }
  })
  current = 'first'
  await app.db.write.query('select 1')
  current = undefined
  await primary.terminateConnections()
  await until(() => open() === 0, { message: 'no connection is left' })
  const before = made()
  const failures = await Promise.all(
    Array.from({ length: 30 }, () => app.db.write.query('select 1').catch((error: unknown) => error))
  )
  for (const failure of failures) {
    sub.match(failure, { statusCode: 503, headers: { 'retry-after': /^\d+$/ } })
    sub.notMatch((failure as Error).message, 'the-secret-path')
  }
  // Thirty callers tried for two seconds each: every one of them forty times a second, it was.
  sub.ok(made() - before < 40, `${made() - before} connections tried`)
  await until(() => open() === 0, { message: 'none of them is left open' })
  current = 'first'
  sub.equal(await codeOf(app.db.write.query('select 1')), undefined, 'served once the vault is back')
})

t.test(
  'credentials that no longer count: callers wait in line, then 503 that keeps the secret',
  async (sub) => {
    let current = 'first'
    const app = await createApp(sub, {
      primary: { ...connectionTo(primary), password: () => current },
      pool: { max: 10, acquireTimeout: '10s' },
      primaryWait: '300ms'
    })
    await app.db.write.query('select 1')
    current = 'wrong'
    // One connection is there; nine more are refused.
    const many = Array.from({ length: 20 }, (_none, n) =>
      codeOf(app.db.write.query('insert into items values ($1)', [n]))
    )
    sub.strictSame(
      (await Promise.all(many)).filter((code) => code !== undefined),
      [],
      'all by the one connection that there is'
    )
    await primary.terminateConnections()
    const failure = await app.db.write.query('select 1').catch((error: unknown) => error)
    sub.match(failure, { statusCode: 503, headers: { 'retry-after': /^\d+$/ } })
    sub.notMatch((failure as Error).message, /password/)
    sub.notMatch(JSON.stringify(app.db.status()), /password authentication/)
    current = 'first'
    await until(async () => (await codeOf(app.db.write.query('select 1'))) === undefined, {
      message: 'served again by itself'
    })
  }
)

t.test(
  'no slot left at the server (53300): callers wait in line for the connections there are',
  async (sub) => {
    await primary.admin.query('alter role visitor connection limit 4')
    sub.teardown(() => primary.admin.query('alter role visitor connection limit -1'))
    await until(async () => (await sessions()) === 0, { message: 'nothing of the tests before is left' })
    const app = await createApp(sub, {
      primary: { ...connectionTo(primary), password: 'first' },
      pool: { max: 20, acquireTimeout: '30s' },
      monitor: { interval: '20s', timeout: '4s' }
    })
    const codes = await Promise.all(
      Array.from({ length: 60 }, () => codeOf(app.db.write.query('select pg_sleep(0.02)')))
    )
    sub.strictSame(
      codes.filter((code) => code !== undefined),
      []
    )
    const held = await Promise.all(Array.from({ length: 3 }, () => app.db.write.pool.connect()))
    const gone = new AbortController()
    const left = app.db.write.query('select 1', [], { signal: gone.signal })
    await until(() => app.db.status().servers[0]!.connections.waiting === 1, { message: 'it waits in line' })
    gone.abort()
    sub.equal(await codeOf(left), 'FLOTILLA_DB_ERR_ABORTED')
    sub.equal(app.db.status().servers[0]!.connections.waiting, 0, 'and has left it')
    const next = app.db.write.query('select 1 as one')
    await after(50)
    held[0]!.release()
    sub.equal((await next).rows[0]!['one'], 1)
    for (const one of held.slice(1)) one.release()
  }
)

t.test('no slot left and none ours: 503 with Retry-After', async (sub) => {
  await primary.admin.query('alter role visitor connection limit 0')
  sub.teardown(() => primary.admin.query('alter role visitor connection limit -1'))
  await until(async () => (await sessions()) === 0, { message: 'nothing of the tests before is left' })
  const app = await createApp(sub, {
    primary: { ...connectionTo(primary), password: 'first' },
    primaryWait: '200ms'
  })
  const asked = await Promise.allSettled([
    app.db.write.query('select 1'),
    app.db.read.query('select 1'),
    app.db.write.pool.query('select 1'),
    app.db.write.pool.connect(),
    app.db.transaction(async (tx) => tx.query('select 1'))
  ])
  for (const one of asked) {
    sub.match(one, { status: 'rejected', reason: { statusCode: 503, headers: { 'retry-after': /^\d+$/ } } })
  }
})
