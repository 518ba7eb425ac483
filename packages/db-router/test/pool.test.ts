import { PgInstrumentation } from '@opentelemetry/instrumentation-pg'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import { startPostgres, until } from '@flotilla/testbed'
import Cursor from 'pg-cursor'
import QueryStream from 'pg-query-stream'
import pg from 'pg'
import t from 'tap'
import { codeOf, createApp } from './fixtures/app-in-process.js'

interface Definitions {
  init(): { patch: (driver: unknown) => void; unpatch: (driver: unknown) => void }[]
}

const postgres = await startPostgres({ replicas: 1 })
t.teardown(() => postgres.stop())
const { primary } = postgres
const servers = { primary: primary.url, replicas: [postgres.replicas[0]!.url] }

t.test('a pool emits what pg.Pool emits, for every connection it leads to', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 } })
  for (const kind of ['write', 'read'] as const) {
    const { pool } = app.db[kind]
    const seen: string[] = []
    for (const event of ['connect', 'acquire', 'release', 'remove'] as const) {
      pool.on(event as 'connect', () => seen.push(event))
    }
    const client = await pool.connect()
    sub.strictSame(
      seen.splice(0),
      ['connect', 'acquire'],
      'connect comes first, and before the caller has it'
    )
    client.release()
    sub.strictSame(seen.splice(0), ['release'])
    await app.db[kind].query('select 1')
    sub.strictSame(seen.splice(0), ['acquire', 'release'], 'statements count as with pg.Pool')
    sub.equal(await codeOf(pool.query('selec')), '42601')
    sub.strictSame(seen.splice(0), ['acquire', 'release'])
    const why = new Error('not wanted any more')
    let reason: unknown
    pool.once('release', (error) => (reason = error))
    const other = await pool.connect()
    other.release(why)
    sub.equal(reason, why)
    await until(() => seen.includes('remove'))
    sub.strictSame(seen, ['acquire', 'release', 'remove'])
    sub.match(pool, { totalCount: 0, idleCount: 0, waitingCount: 0, expiredCount: 0 })
  }
})

t.test('the events of one side are not those of the other', async (sub) => {
  const app = await createApp(sub, servers)
  const seen: string[] = []
  app.db.read.pool.on('acquire', () => seen.push('read'))
  app.db.write.pool.on('acquire', () => seen.push('write'))
  await app.db.read.query('select 1')
  await app.db.write.query('select 1')
  sub.strictSame(seen, ['read', 'write'])
  const alone = await createApp(sub, { primary: servers.primary })
  alone.db.read.pool.on('acquire', () => seen.push('read of one server'))
  await alone.db.read.query('select 1')
  sub.strictSame(seen, ['read', 'write', 'read of one server'])
  sub.equal(alone.db.read.pool.totalCount, 1)
})

t.test('an idle connection that fails is an error of its pool, and ends no process', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 } })
  const { pool } = app.db.write
  for (const listens of [false, true]) {
    const failures: unknown[] = []
    if (listens) pool.on('error', (error, client) => failures.push([error, client]))
    const client = await pool.connect()
    client.release()
    const ended = new Promise((resolve) => client.once('end', resolve))
    await primary.terminateConnections()
    await ended
    if (!listens) continue
    await until(() => failures.length > 0)
    const [[error, failed]] = failures as [[Error & { client: unknown }, unknown]]
    sub.equal(failed, client)
    sub.equal(error.client, client)
    sub.equal(failures.length, 1)
    sub.equal(pool.totalCount, 0)
  }
})

t.test('a pool that ends waits for its own work, and no other pool ends with it', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 2 } })
  const { pool } = app.db.write
  const order: string[] = []
  const slow = pool.query('select pg_sleep(0.1)').then(() => order.push('statement'))
  const client = await pool.connect()
  const ended = pool.end().then(() => order.push('ended'))
  sub.match(pool, { ending: true, ended: false })
  await slow
  await client.query('select 1')
  order.push('loan')
  client.release()
  await ended
  sub.strictSame(order, ['statement', 'loan', 'ended'])
  sub.match(pool, { ending: true, ended: true })
  for (const call of [pool.query('select 1'), pool.connect(), pool.end()]) {
    await sub.rejects(call as Promise<never>, /after calling end|more than once/)
  }
  sub.not(app.db.write.pool, pool, 'the next one that asks gets a pool that works')
  sub.equal(await codeOf(app.db.write.pool.query('select 1')), undefined)
})

t.test('arguments as pg.Pool takes them', async (sub) => {
  const app = await createApp(sub, servers)
  const { pool } = app.db.write
  const query = pool.query.bind(pool) as (...args: unknown[]) => unknown
  const called = (...args: unknown[]): Promise<unknown> =>
    new Promise((resolve) =>
      sub.equal(
        query(...args, (...got: unknown[]) => resolve(got)),
        undefined
      )
    )
  for (const nothing of [undefined, null]) {
    await sub.rejects(query(nothing) as Promise<unknown>, TypeError)
    sub.match(await called(nothing, []), [TypeError])
    await sub.rejects(app.db.query(nothing as never), TypeError)
    await sub.rejects(app.db.read.query(nothing as never), TypeError)
  }
  sub.match(await called(), [{ message: /function as the first parameter/ }])
  sub.match(await called('select 1 as one'), [undefined, { rows: [{ one: 1 }] }])
  sub.match(await called('select $1::int as one', [1]), [undefined, { rows: [{ one: 1 }] }])
  sub.match(await called({ text: 'select $1::int as one' }, [1]), [undefined, { rows: [{ one: 1 }] }])
  sub.throws(() => query('select 1', [], 'no function'), TypeError)
  await sub.rejects(query(new Cursor('select 1')) as Promise<unknown>, /pool\.connect\(\)/)
  for (const rows of [20, 3]) {
    const stream = new QueryStream('select n from generate_series(1, 20) as n', [], { batchSize: 2 })
    const done = query(stream) as Promise<unknown>
    let seen = 0
    for await (const _row of stream) if (++seen === rows) break
    await done
    await until(() => pool.idleCount === pool.totalCount, { message: 'its connection is given back' })
  }
})

t.test('the option onConnect runs once on each connection, before its first use', async (sub) => {
  const seen: unknown[] = []
  let fails = true
  const app = await createApp(sub, {
    ...servers,
    pool: {
      max: 1,
      onConnect: async (client) => {
        if (fails) throw new Error('the hook failed')
        seen.push(client)
        await client.query("set application_name = 'set by the hook'")
      }
    }
  })
  for (let n = 0; n < 5; n++) {
    await sub.rejects(app.db.write.query('select 1'), { message: 'the hook failed' }, 'as it was thrown')
    sub.match(app.db.status().servers[0], { state: 'up', connections: { total: 0 } })
  }
  fails = false
  for (const kind of ['write', 'read'] as const) {
    const { rows } = await app.db[kind].query('show application_name')
    sub.strictSame(rows, [{ application_name: 'set by the hook' }])
    await app.db[kind].query('select 1')
    const client = await app.db[kind].pool.connect()
    sub.equal(seen.at(-1), client)
    client.release()
  }
  sub.equal(seen.length, 2)
})

t.test('a connection is replaced after maxUses, and min of them stay', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 2, min: 1, maxUses: 3, idleTimeout: 10 } })
  const pids: unknown[] = []
  for (let n = 0; n < 7; n++) {
    const { rows } = await app.db.write.query('select pg_backend_pid() as pid')
    pids.push(rows[0]!['pid'])
  }
  sub.equal(new Set(pids).size, 3)
  const { pool } = app.db.write
  const [one, two] = [await pool.connect(), await pool.connect()]
  one.release()
  two.release()
  await until(() => pool.totalCount === 1)
  sub.equal(pool.idleCount, 1)
})

t.test('the stack of every error leads back to its caller', async (sub) => {
  const app = await createApp(sub, servers)
  const { read, write } = app.db
  const calls: Record<string, () => Promise<unknown>> = {
    'db.read.query': () => read.query('selec'),
    'db.write.query': () => write.query('selec'),
    'db.query': () => app.db.query('selec'),
    'read.pool.query': () => read.pool.query('selec'),
    'write.pool.query': () => write.pool.query('selec'),
    'a read that writes': () => read.query('create table never (n int)')
  }
  for (const [name, call] of Object.entries(calls)) {
    async function namedCaller(): Promise<void> {
      await call()
    }
    sub.match(await namedCaller().catch((error: Error) => error.stack), /namedCaller/, name)
  }
})

t.test('a trace has one span for each statement of the caller, and none without a name', async (sub) => {
  const exporter = new InMemorySpanExporter()
  const instrumentation = new PgInstrumentation()
  instrumentation.setTracerProvider(
    new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
  )
  // What its hook does when a process loads the driver; here the driver is loaded already.
  const [driver] = (instrumentation as unknown as Definitions).init()
  driver!.patch(pg)
  sub.teardown(() => driver!.unpatch(pg))
  const app = await createApp(sub, { ...servers, pool: { max: 1 } })
  const names = (): string[] => exporter.getFinishedSpans().map(({ name }) => name.split(' ')[0]!)
  await until(() => app.db.status().servers.every(({ state }) => state === 'up'))
  for (let n = 0; n < 3; n++) {
    await app.db.write.query('create table if not exists traced (n int)')
    await app.db.read.query('select n from traced')
  }
  const client = await app.db.write.pool.connect()
  await client.query('insert into traced values (1)')
  client.release()
  const queries = names().filter((name) => name !== 'pg.connect')
  sub.strictSame(queries, [
    ...Array.from({ length: 3 }, () => ['pg.query:CREATE', 'pg.query:SELECT']).flat(),
    'pg.query:INSERT'
  ])
})
