import { listen, startPgBouncer, startPostgres, until } from '@flotilla/testbed'
import { once } from 'node:events'
import { request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as after } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { QueryMessage, RetryMessage } from '../src/index.js'
import { codeOf, createApp } from './fixtures/app-in-process.js'

const postgres = await startPostgres({ replicas: 1 })
t.teardown(() => postgres.stop())
const { primary, replicas } = postgres
const replica = replicas[0]!
const servers = { primary: primary.url, replicas: [replica.url] }
await primary.query('create table items (id int primary key, name text unique)')
await primary.query("insert into items values (1, 'one'), (2, 'two')")
await postgres.waitForCatchUp()

const running = async (mark: string, server: { query: typeof primary.query } = primary): Promise<number> => {
  const { rows } = await server.query<{ n: number }>(
    `select count(*)::int as n from pg_stat_activity where query like '%' || $1 || '%' and state = 'active' and pid <> pg_backend_pid()`,
    [mark]
  )
  return rows[0]!.n
}

t.test('reads run on the replica, writes and query on the primary', async (sub) => {
  const app = await createApp(sub, servers)
  const where = 'select inet_server_port() as port'
  sub.equal((await app.db.read.query(where)).rows[0]!['port'], replica.port)
  sub.equal((await app.db.write.query(where)).rows[0]!['port'], primary.port)
  sub.equal((await app.db.query(where)).rows[0]!['port'], primary.port)
  sub.equal((await app.db.query({ text: 'select $1::int as n', values: [3] })).rows[0]!['n'], 3)
  sub.strictSame((await app.db.read.query({ text: 'select 1, 2', rowMode: 'array' })).rows, [[1, 2]])
})

t.test('an SQL error keeps its connection, and says what the server said', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 } })
  const pid = async (): Promise<unknown> =>
    (await app.db.write.query('select pg_backend_pid() as pid')).rows[0]!['pid']
  const before = await pid()
  sub.equal(await codeOf(app.db.write.query('selec')), '42601')
  sub.equal(await codeOf(app.db.write.query("insert into items values (1, 'x')")), '23505')
  sub.equal(await codeOf(app.db.write.query('select $1::int', ['x'])), '22P02')
  sub.ok(
    await codeOf(app.db.write.query({ text: 'select 1', values: 5 as never })),
    'values that are no list'
  )
  sub.equal(await pid(), before, 'the same connection')
})

t.test('a read that writes is refused by name', async (sub) => {
  const app = await createApp(sub, servers)
  sub.equal(
    await codeOf(app.db.read.query("insert into items values (9, 'nine')")),
    'FLOTILLA_DB_ERR_NOT_A_READ'
  )
  sub.equal(await codeOf(app.db.read.query('select * from items for update')), 'FLOTILLA_DB_ERR_NOT_A_READ')
})

const SETTINGS = `select current_setting('default_transaction_read_only') as read_only,
  current_setting('statement_timeout') as statement, current_setting('idle_in_transaction_session_timeout') as idle`

t.test('what a statement does to its session does not reach who gets the connection next', async (sub) => {
  const app = await createApp(sub, { primary: primary.url, pool: { max: 1 } })
  const settings = async (): Promise<unknown[]> => [
    (await app.db.read.query(SETTINGS)).rows[0],
    (await app.db.write.query(SETTINGS)).rows[0]
  ]
  const before = await settings()
  for (const text of [
    'discard all',
    'reset all',
    '/* all */ Reset All',
    'reset session authorization',
    'set default_transaction_read_only = off',
    "select set_config('default_transaction_read_only', 'off', false)",
    'set session characteristics as transaction read write'
  ]) {
    await app.db.read.query(text)
    sub.equal(
      await codeOf(app.db.read.query("insert into items values (9, 'nine')")),
      'FLOTILLA_DB_ERR_NOT_A_READ',
      `a read after ${text}`
    )
    sub.strictSame(await settings(), before, `settings after ${text}`)
    await app.db.write.query(text)
    sub.strictSame(await settings(), before, `settings after a write's ${text}`)
    for (const { pool } of [app.db.read, app.db.write]) {
      const client = await pool.connect()
      await client.query(text)
      client.release()
      sub.strictSame(await settings(), before, `settings after a borrower's ${text}`)
    }
  }
})

async function abortRuns(sub: Test, urls: { primary: string; replicas: string[] }): Promise<void> {
  const app = await createApp(sub, { ...urls, pool: { max: 1 } })
  const controller = new AbortController()
  const sleeping = codeOf(
    app.db.write.query('select pg_sleep(30) /* abort-me */', [], { signal: controller.signal })
  )
  await until(() => running('abort-me'), { message: 'it runs' })
  const started = performance.now()
  controller.abort()
  sub.equal(await sleeping, 'FLOTILLA_DB_ERR_ABORTED')
  await until(async () => (await running('abort-me')) === 0, { message: 'it is gone' })
  const gone = performance.now() - started
  sub.comment(`gone after ${gone.toFixed(0)} ms, the question included`)
  sub.ok(gone < 1_000, 'gone, on a loaded machine')
  // The connection comes back sound, the only one there is, and no late cancel hits the next statement.
  for (let n = 0; n < 20; n++) sub.equal((await app.db.write.query('select 1 as one')).rows[0]!['one'], 1)
  sub.equal(app.db.status().servers[0]!.connections.total, 1)
  sub.equal(
    await codeOf(app.db.write.query('select 1', [], { signal: AbortSignal.abort() })),
    'FLOTILLA_DB_ERR_ABORTED'
  )
}

t.test('abort: the statement is gone from the server within 100 ms', (sub) => abortRuns(sub, servers))

t.test('the same through PgBouncer in transaction mode', async (sub) => {
  const bouncer = await startPgBouncer({ target: [primary, replica] })
  sub.teardown(() => bouncer.stop())
  await abortRuns(sub, { primary: bouncer.url, replicas: bouncer.replicaUrls })
})

t.test('a client that goes away takes its statements along', async (sub) => {
  let late: Promise<{ code: Promise<string | undefined> }> | undefined
  const app = await createApp(sub, servers, (one) => {
    one.get('/slow', async (req) => (await req.db.read.query('select pg_sleep(30) /* left-alone */')).rows)
    one.get('/late', async (req, reply) => {
      // The code is in an object: a promise of a promise would be one.
      late = once(reply.raw, 'close').then(() => ({ code: codeOf(req.db.write.query('select 1')) }))
      return (await late).code
    })
    one.get('/tx', async (req) =>
      req.db.transaction(async (tx) => (await tx.query('select pg_sleep(30) /* left-alone */')).rows)
    )
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const leave = async (path: string, underWay: () => unknown): Promise<void> => {
    const call = request({ port, path, host: '127.0.0.1' })
    call.on('error', () => {})
    call.end()
    await until(underWay, { message: `${path} is under way` })
    call.destroy()
  }
  for (const [path, server] of [
    ['/slow', replica],
    ['/tx', primary]
  ] as const) {
    await leave(path, () => running('left-alone', server))
    await until(async () => (await running('left-alone', server)) === 0, { message: `${path} is cancelled` })
  }
  sub.pass('cancelled')
  await leave('/late', () => late !== undefined)
  sub.equal(await (await late!).code, 'FLOTILLA_DB_ERR_ABORTED', 'gone before the database was first asked')
})

t.test('a timeout cancels on the server too', async (sub) => {
  const app = await createApp(sub, { ...servers, timeout: 150 })
  sub.equal(await codeOf(app.db.read.query('select pg_sleep(30) /* too-slow */')), 'FLOTILLA_DB_ERR_TIMEOUT')
  await until(async () => (await running('too-slow', replica)) === 0, { message: 'it is gone' })
  sub.equal(
    await codeOf(app.db.query('select pg_sleep(0.3)', [], { timeout: '5s' })),
    undefined,
    'one of its own'
  )
  sub.equal(
    await codeOf((async () => app.db.query('select 1', [], { timeout: 'soon' as never }))()),
    'FLOTILLA_DB_ERR_OPTION'
  )
})

t.test('what is not the fault of a replica is not tried at another server', async (sub) => {
  const app = await createApp(sub, servers)
  const { name } = app.db.status().servers[1]!
  const queries = listen<QueryMessage>(sub, 'flotilla:db:query')
  const retries = listen<RetryMessage>(sub, 'flotilla:db:retry')
  const controller = new AbortController()
  const refusing = {
    toPostgres() {
      throw new RangeError('not for the database')
    }
  }
  const timedOut = codeOf(app.db.read.query('select pg_sleep(600)', [], { timeout: 150 }))
  sub.equal(await timedOut, 'FLOTILLA_DB_ERR_TIMEOUT')
  const aborted = codeOf(
    app.db.read.query('select pg_sleep(600) /* gone */', [], { signal: controller.signal })
  )
  await until(() => running('gone', replica), { message: 'it runs' })
  controller.abort()
  sub.equal(await aborted, 'FLOTILLA_DB_ERR_ABORTED')
  await sub.rejects(app.db.read.query('select $1', [refusing]), { name: 'RangeError' })
  sub.match(queries, [{ server: name }, { server: name }, { server: name }])
  sub.equal(queries.length, 3, 'once each')
  sub.strictSame(retries, [])
})

t.test('a replica whose pool is used up is busy, one that refuses connections is left alone', async (sub) => {
  const busy = await createApp(sub, { ...servers, pool: { max: 1, maxWaiting: 0 } })
  const held = await busy.db.read.pool.connect()
  const where = async (app: typeof busy): Promise<unknown> =>
    (await app.db.read.query('select inet_server_port() as port')).rows[0]!['port']
  for (let n = 0; n < 5; n++) sub.equal(await where(busy), primary.port)
  sub.equal(busy.db.status().servers[1]!.breaker, 'closed')
  held.release()
  sub.equal(await where(busy), replica.port)

  // Its one connection is the monitor's.
  await primary.admin.query("create role narrow login password 'narrow' connection limit 1")
  await postgres.waitForCatchUp()
  const url = new URL(replica.url)
  url.username = 'narrow'
  url.password = 'narrow'
  const full = await createApp(sub, {
    ...servers,
    replicas: [url.href],
    monitor: { interval: '1h', timeout: 3_000 },
    tokenTtl: '3h'
  })
  for (let n = 0; n < 5; n++) sub.equal(await where(full), primary.port)
  sub.equal(full.db.status().servers[1]!.breaker, 'open')
})

t.test('the wait for a connection is bounded in number and time', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1, maxWaiting: 1, acquireTimeout: 200 } })
  const held = await app.db.write.pool.connect()
  const waiting = codeOf(app.db.write.query('select 1'))
  sub.equal(app.db.write.pool.waitingCount, 1)
  const refused = app.db.write.query('select 1')
  sub.equal(await codeOf(refused), 'FLOTILLA_DB_ERR_POOL_EXHAUSTED', 'no room to wait')
  const error = (await refused.catch((one: unknown) => one)) as {
    statusCode: number
    headers: Record<string, string>
  }
  sub.equal(error.statusCode, 503)
  sub.match(error.headers['retry-after'], /^\d+$/)
  sub.equal(await waiting, 'FLOTILLA_DB_ERR_POOL_EXHAUSTED', 'waited long enough')
  held.release()
  sub.equal(await codeOf(app.db.write.query('select 1')), undefined)
})

t.test('a client released twice, or with a transaction left open', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 } })
  const client = await app.db.write.pool.connect()
  await client.query('begin')
  await client.query("insert into items values (77, 'left open')")
  client.release()
  sub.throws(() => client.release(), { code: 'FLOTILLA_DB_ERR_RELEASED' })
  const { rows } = await app.db.write.query('select count(*)::int as n from items where id = 77')
  sub.equal(rows[0]!['n'], 0, 'rolled back')
  await app.db.write.query('begin')
  await app.db.write.query("insert into items values (78, 'begun by query')")
  sub.equal(
    (await app.db.write.query('select txid_current_if_assigned() as tx')).rows[0]!['tx'],
    null,
    'no transaction is open'
  )
  await app.db.write.query('delete from items where id = 78')
})

t.test('a transaction that an error left open is over for the next caller', async (sub) => {
  for (const more of [{}, { consistency: false }]) {
    const app = await createApp(sub, { ...servers, ...more, pool: { max: 1 } })
    // The error is answered before the server says that a transaction is open.
    const { query } = app.db.write
    sub.equal(await codeOf(query('begin; selec')), '42601')
    sub.equal(await codeOf(query('select 1')), undefined)
    sub.equal(await codeOf(query('begin; select 1/0')), '22012')
    sub.equal(await codeOf(query('select 1')), undefined)
  }
})

t.test('values that can not be sent fail their statement and nothing else', async (sub) => {
  const circular: Record<string, unknown> = {}
  circular['self'] = circular
  const refusing = {
    toPostgres() {
      throw new RangeError('not for the database')
    }
  }
  for (const more of [{}, { consistency: false }]) {
    const app = await createApp(sub, { ...servers, ...more, pool: { max: 3 } })
    const client = await app.db.write.pool.connect()
    for (const value of [circular, refusing]) {
      for (const query of [
        app.db.read.query,
        app.db.write.query,
        client.query.bind(client) as typeof app.db.query,
        async (text: string, values: unknown[]) => app.db.transaction(async (tx) => tx.query(text, values)),
        async (text: string, values: unknown[]) =>
          app.db.transaction(async (tx) => tx.query(text, values), { readOnly: true })
      ]) {
        await sub.rejects(query('select $1', [value]), { name: /^(TypeError|RangeError)$/ })
      }
    }
    client.release()
    const sleep = async (): Promise<unknown> =>
      (await app.db.write.query('select pg_backend_pid() as pid, pg_sleep(0.1)')).rows[0]!['pid']
    sub.equal(new Set(await Promise.all([sleep(), sleep(), sleep()])).size, 3, 'no connection is lent twice')
    for (const { inFlight } of app.db.status().servers) sub.equal(inFlight, 0)
  }
})

t.test('a connection given back with statements under way is not lent before they are over', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 } })
  const client = await app.db.write.pool.connect()
  const slow = client.query('begin; select pg_sleep(0.2)')
  client.release()
  sub.equal(
    (
      await app.db.write.query(
        'select txid_current_if_assigned() as tx, now() = statement_timestamp() as own'
      )
    ).rows[0]!['own'],
    true,
    'outside that transaction'
  )
  sub.equal(await codeOf(slow), undefined)
})

t.test('DISCARD and DEALLOCATE take nothing away that writes are followed with', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 }, maxWait: '10s' })
  for (const text of ['select 1', 'deallocate all', 'discard all']) {
    const job = app.db.session()
    await job.write.query(text)
    sub.ok(job.token(), text)
    await job.write.query("update items set name = 'two' where id = 2")
    const { rows } = await job.read.query('select pg_is_in_recovery() as replica')
    sub.equal(rows[0]!['replica'], true, 'followed, so a replica may answer')
  }
})

t.test('connections in steady use are handed on, and grow old all the same', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 2, maxLifetime: '1s', idleTimeout: '300ms' } })
  const pids = new Set<unknown>()
  const ask = async (): Promise<void> => {
    pids.add((await app.db.write.query('select pg_backend_pid() as pid')).rows[0]!['pid'])
  }
  await ask()
  for (let n = 0; n < 20; n++) await ask()
  sub.equal(pids.size, 1, 'the one used last is used next')
  // Without a pause in which it would lie idle.
  const deadline = performance.now() + 20_000
  while (pids.size === 1 && performance.now() < deadline) await ask()
  sub.equal(pids.size, 2, 'a connection in use reaches its lifetime and is replaced')
  await until(() => app.db.status().servers[0]!.connections.total === 0, { message: 'idle ones are ended' })
  await Promise.all(Array.from({ length: 50 }, ask))
  const { total, idle, waiting } = app.db.status().servers[0]!.connections
  sub.ok(total <= 2)
  sub.strictSame([idle, waiting], [total, 0])
})

t.test('an idle backend that is terminated ends nothing but itself', async (sub) => {
  const app = await createApp(sub, servers)
  await app.db.write.query('select 1')
  await app.db.read.query('select 1')
  await primary.terminateConnections()
  await replica.terminateConnections()
  sub.equal(await codeOf(app.db.read.query('select 1')), undefined)
  sub.equal(await codeOf(app.db.write.query('select 1')), undefined)
})

t.test('a terminated backend: a read goes elsewhere, a write says that it does not know', async (sub) => {
  const app = await createApp(sub, servers)
  const reading = codeOf(app.db.read.query('select pg_sleep(0.5) /* shot */'))
  await until(() => running('shot', replica), { message: 'it runs' })
  await replica.terminateConnections()
  sub.equal(await reading, undefined, 'answered by the primary')
  await until(() => app.db.status().primary, { message: 'the primary is known' })
  const writing = codeOf(app.db.write.query('select pg_sleep(5) /* shot-too */'))
  await until(() => running('shot-too'), { message: 'it runs' })
  await primary.terminateConnections()
  sub.equal(await writing, 'FLOTILLA_DB_ERR_OUTCOME_UNKNOWN')
})

t.test('close waits for what runs, up to a deadline', async (sub) => {
  const app = await createApp(sub, { ...servers, closeTimeout: 1_000 })
  const long = codeOf(app.db.write.query('select pg_sleep(60) /* outlasts it */'))
  await until(() => running('outlasts it'), { message: 'the long one runs' })
  const short = codeOf(app.db.write.query('select pg_sleep(0.3) /* in time */'))
  await until(() => running('in time'), { message: 'the short one runs' })
  const started = performance.now()
  await app.close()
  sub.ok(performance.now() - started < 30_000)
  sub.equal(await short, undefined)
  sub.equal(await long, 'FLOTILLA_DB_ERR_OUTCOME_UNKNOWN')
  sub.equal(await codeOf(app.db.write.query('select 1')), 'FLOTILLA_DB_ERR_CLOSED')
})

t.test('close does not wait for who keeps a connection', async (sub) => {
  const app = await createApp(sub, { ...servers, closeTimeout: 300 })
  const kept = await app.db.write.pool.connect()
  await kept.query('select 1')
  let goOn = (): void => {}
  let begun = false
  const stuck = codeOf(
    app.db.transaction(async (tx) => {
      await tx.query('select 1')
      begun = true
      await new Promise<void>((resolve) => (goOn = resolve))
      await tx.query('select 1')
    })
  )
  await until(() => begun, { message: 'the transaction is open' })
  const closed = app.close().then(() => 'closed')
  sub.equal(await Promise.race([closed, after(20_000, 'still open', { ref: false })]), 'closed')
  goOn()
  sub.equal(await stuck, 'FLOTILLA_DB_ERR_UNAVAILABLE')
  kept.release()
})
