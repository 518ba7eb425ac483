import { setTimeout as after } from 'node:timers/promises'
import { listen, startPostgres, until } from '@flotilla/testbed'
import t from 'tap'
import type { GateMessage, QueryMessage, RetryMessage, ServerMessage } from '../src/index.js'
import { codeOf, createApp } from './fixtures/app-in-process.js'

const postgres = await startPostgres({ replicas: 1 })
t.teardown(() => postgres.stop())
const { primary } = postgres
const replica = postgres.replicas[0]!
const servers = { primary: primary.url, replicas: [replica.url] }
await primary.query('create table items (name text unique)')
await postgres.waitForCatchUp()

/** Ends the backend that runs this statement. */
async function terminate(mark: string): Promise<void> {
  await until(async () => {
    const { rows } = await primary.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where query like '%/* ${mark} */%' and state = 'active' and pid <> pg_backend_pid()`
    )
    return rows.length > 0
  })
}

t.test('a statement is told once, with where it ran and without its values', async (sub) => {
  const app = await createApp(sub, servers)
  const [main, copy] = app.db.status().servers.map(({ name }) => name) as [string, string]
  const queries = listen<QueryMessage>(sub, 'flotilla:db:query')
  await app.db.write.query('insert into items values ($1)', ['topsecret'])
  await app.db.session().read.query('select $1::text', ['topsecret'])
  await codeOf(app.db.write.query('select $1::text from nothing', ['topsecret']))
  await codeOf(app.db.write.query('select pg_sleep(9)', [], { timeout: 30 }))
  await app.db.transaction(async (tx) => tx.query('select 1'))
  sub.match(queries, [
    { server: main, role: 'primary', kind: 'write', durationMs: Number },
    { server: copy, role: 'replica', kind: 'read', durationMs: Number },
    { server: main, role: 'primary', kind: 'write', durationMs: Number, error: { code: '42P01' } },
    {
      server: main,
      role: 'primary',
      kind: 'write',
      durationMs: Number,
      error: { code: 'FLOTILLA_DB_ERR_TIMEOUT' }
    }
  ])
  sub.equal(queries.length, 4)
  sub.notOk('error' in queries[0]!)
  sub.ok(queries.every(({ durationMs }) => durationMs > 0))
  sub.ok(queries[3]!.durationMs >= 29, 'in milliseconds')
  sub.notMatch(JSON.stringify(queries), 'topsecret')
})

t.test('a read that had to see a write is placed once, with what it waited', async (sub) => {
  const app = await createApp(sub, { ...servers, maxWait: '1s', maxLag: '50s', tokenTtl: '2m' })
  const { read, write } = app.db.session()
  await app.db.session().read.query('select 1')
  const gates = listen<GateMessage>(sub, 'flotilla:db:gate')
  await write.query("insert into items values ('a')")
  await postgres.waitForCatchUp()
  await read.query('select 1')
  gates.length = 0
  await read.query('select 1')
  sub.strictSame(gates.splice(0), [{ outcome: 'fresh', durationMs: 0 }])

  await replica.pauseReplay()
  await write.query("insert into items values ('b')")
  const reading = read.query('select 1')
  await after(50)
  await replica.resumeReplay()
  await reading
  sub.match(gates, [{ outcome: 'waited', durationMs: Number }])
  sub.ok(gates[0]!.durationMs > 40)
  sub.equal(gates.splice(0).length, 1)

  await replica.pauseReplay()
  await write.query("insert into items values ('c')")
  await read.query('select 1')
  sub.match(gates, [{ outcome: 'primary', durationMs: Number }])
  sub.ok(gates[0]!.durationMs >= 999, 'what it waited for the replica counts')
  sub.equal(gates.splice(0).length, 1)
  await replica.resumeReplay()
})

t.test('a read only transaction is placed once as well', async (sub) => {
  const app = await createApp(sub, { ...servers, maxWait: '5s', maxLag: '50s', tokenTtl: '2m' })
  const session = app.db.session()
  await session.write.query("insert into items values ('tx')")
  await postgres.waitForCatchUp()
  await session.read.query('select 1')
  const gates = listen<GateMessage>(sub, 'flotilla:db:gate')
  await session.transaction(async (tx) => tx.query('select 1'), { readOnly: true })
  sub.strictSame(gates, [{ outcome: 'fresh', durationMs: 0 }])
})

t.test('refused is a read without its share of the primary, not one that was given up', async (sub) => {
  const app = await createApp(sub, {
    ...servers,
    maxWait: 0,
    maxLag: '50s',
    tokenTtl: '2m',
    fallback: { concurrency: 1, maxWaiting: 1, wait: '100ms' }
  })
  const { write, read } = app.db.session()
  await replica.pauseReplay()
  sub.teardown(() => replica.resumeReplay())
  await write.query("insert into items values ('d')")
  const gates = listen<GateMessage>(sub, 'flotilla:db:gate')
  const holding = new AbortController()
  const held = codeOf(read.query('select pg_sleep(60)', [], { signal: holding.signal, timeout: 0 }))
  await until(() => app.db.status().fallback.running === 1)
  const controller = new AbortController()
  const aborted = codeOf(read.query('select 1', [], { signal: controller.signal }))
  await until(() => app.db.status().fallback.waiting === 1)
  controller.abort()
  sub.equal(await aborted, 'FLOTILLA_DB_ERR_ABORTED')
  sub.equal(await codeOf(read.query('select 1')), 'FLOTILLA_DB_ERR_OVER_BUDGET')
  holding.abort()
  await held
  sub.match(gates, [{ outcome: 'primary' }, { outcome: 'refused', durationMs: Number }])
  sub.equal(gates.length, 2)
  sub.ok(gates[1]!.durationMs >= 99)
})

t.test('what runs again names the server that failed', async (sub) => {
  const app = await createApp(sub, { primary: primary.url, transaction: { retries: 1 } })
  const { name } = app.db.status().servers[0]!
  const retries = listen<RetryMessage>(sub, 'flotilla:db:retry')
  const failing = app.db.transaction(async (tx) =>
    tx.query("do $$ begin raise exception 'again' using errcode = '40001'; end $$")
  )
  sub.equal(await codeOf(failing), '40001')
  sub.strictSame(retries.splice(0), [{ server: name, kind: 'transaction', code: '40001' }])

  const reading = app.db.read.query('select pg_sleep(1) /* primary */')
  await terminate('primary')
  await reading
  sub.strictSame(retries, [{ server: name, kind: 'read', code: '57P01' }])
})

t.test('a replica that was left for its lag says when it is back', async (sub) => {
  const heard = listen<ServerMessage>(sub, 'flotilla:db:server')
  const app = await createApp(sub, { ...servers, maxLag: 300 })
  const { name } = app.db.status().servers[1]!
  const events = (): ServerMessage[] => heard.filter(({ server }) => server === name)
  await until(() => events().length > 0)
  await replica.pauseReplay()
  await app.db.write.query("insert into items values ('e')")
  await until(() => events().length > 1)
  await replica.resumeReplay()
  await until(() => events().length > 2)
  sub.match(events(), [
    { server: name, event: 'up' },
    { server: name, event: 'ejected', reason: /^\d+ ms behind$/ },
    { server: name, event: 'up', reason: 'caught up' }
  ])
  sub.equal(app.db.status().servers[1]!.state, 'up')
})
