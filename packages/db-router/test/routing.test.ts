import { listen, startPgBouncer, startPostgres, until } from '@flotilla/testbed'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import t from 'tap'
import type { QueryMessage } from '../src/index.js'
import { ConnectionEvents } from '../src/connection-events.js'
import { readOptions } from '../src/options.js'
import { Server } from '../src/server.js'
import { autoRoute } from '../src/auto.js'
import { codeOf, createApp } from './fixtures/app-in-process.js'

const postgres = await startPostgres({ replicas: 2 })
t.teardown(() => postgres.stop())
const { primary, replicas } = postgres
const servers = { primary: primary.url, replicas: replicas.map((one) => one.url) }
await primary.query('create table items (id serial primary key, name text)')
await primary.query(
  "create function sneaky() returns bigint language sql as $$ select nextval('items_id_seq') $$"
)
await primary.query('create view sneaky_view as select sneaky() as n')
await primary.query('create unlogged table scratch (n int)')
await postgres.waitForCatchUp()

t.test('autoRoute(): reads to a replica, the rest to the primary', async (sub) => {
  const app = await createApp(sub, { ...servers, route: autoRoute() })
  const replica = async (text: string, values: unknown[] = []): Promise<unknown> =>
    (await app.db.query(text, values)).rows[0]!['replica']
  // The one function that tells where it ran is not on the list, so it is asked through a setting the replica has.
  sub.equal(await codeOf(app.db.query('select name from items where id = $1', [1])), undefined)
  sub.equal(
    await replica('select pg_is_in_recovery() as replica'),
    false,
    'not known to be pure: the primary'
  )
  const seen: string[] = []
  const listen = (message: unknown): void => void seen.push((message as { role: string }).role)
  subscribe('flotilla:db:query', listen)
  sub.teardown(() => unsubscribe('flotilla:db:query', listen))
  await app.db.query('select count(*) from items')
  await app.db.query("insert into items (name) values ('one')")
  await app.db.query('select * from items for update')
  sub.strictSame(seen, ['replica', 'primary', 'primary'])
  for (const text of [
    'select count(*) from pg_stat_activity',
    'select count(*) from pg_catalog.pg_locks',
    'table "pg_settings"'
  ]) {
    seen.length = 0
    await app.db.query(text)
    sub.strictSame(seen, ['primary'], text)
  }
  seen.length = 0
  await app.db.query('select count(*) from pg_stats')
  sub.strictSame(seen, ['replica'], 'statistics of tables are the same on both')
  seen.length = 0
  sub.equal(
    (await app.db.query('select count(*)::int as n from items')).rows[0]!['n'],
    1,
    'and reads its writes'
  )

  seen.length = 0
  sub.ok(
    (await app.db.query('select * from sneaky_view')).rows[0]!['n'],
    'a view that writes runs on the primary'
  )
  sub.strictSame(seen, ['replica', 'primary'])
  await app.db.query('select * from sneaky_view')
  sub.strictSame(seen, ['replica', 'primary', 'primary'], 'which is remembered')
  sub.equal(
    (await app.db.query('select count(*)::int as n from scratch')).rows[0]!['n'],
    0,
    'an unlogged table, which replicas do not have'
  )
})

t.test('a read at the primary can not write either', async (sub) => {
  const bouncer = await startPgBouncer({ target: primary })
  sub.teardown(() => bouncer.stop())
  const away = 'postgres://postgres@127.0.0.1:1/app'
  const drawn = async (): Promise<unknown> =>
    (await primary.query('select last_value::text, is_called from items_id_seq')).rows[0]
  for (const [name, options] of Object.entries({
    'without replicas': { primary: primary.url },
    'no replica usable': { primary: primary.url, replicas: [away] },
    'without replicas, through PgBouncer': { primary: bouncer.url },
    'no replica usable, through PgBouncer': { primary: bouncer.url, replicas: [away] }
  })) {
    const app = await createApp(sub, {
      ...options,
      consistency: true,
      carrier: false,
      route: autoRoute(),
      pool: { max: 1 }
    })
    const before = await drawn()
    for (const text of [
      "insert into items (name) values ('a read')",
      'select sneaky()',
      'select * from sneaky_view',
      'select * from items for update'
    ]) {
      sub.equal(await codeOf(app.db.read.query(text)), 'FLOTILLA_DB_ERR_NOT_A_READ', `${name}: ${text}`)
      const reading = app.db.transaction(async (tx) => tx.query(text), { readOnly: true })
      sub.equal(await codeOf(reading), '25006', `${name}: ${text}, in a transaction`)
    }
    sub.strictSame(await drawn(), before, `${name}: nothing was written`)
    sub.equal(app.db.status().primary, app.db.status().servers[0]!.name, 'that says nothing of the primary')

    // Where the router found out, the statement is a write like any other: it is followed.
    const job = app.db.session()
    const queries = listen<QueryMessage>(sub, 'flotilla:db:query')
    const { rows } = await job.query('select n from sneaky_view')
    sub.ok(rows[0]!['n'], name)
    sub.match(queries, [{ kind: 'read', error: { code: 'FLOTILLA_DB_ERR_NOT_A_READ' } }, { kind: 'write' }])
    sub.ok(job.token(), `${name}: followed`)

    // The one connection reads and writes in turn.
    for (let n = 0; n < 3; n++) {
      sub.equal((await app.db.read.query('select $1::int as n', [n])).rows[0]!['n'], n)
      sub.equal(await codeOf(app.db.write.query('select sneaky()')), undefined)
      sub.strictSame((await app.db.read.query({ text: 'select 1, 2', rowMode: 'array' })).rows, [[1, 2]])
      sub.equal(await codeOf(app.db.transaction(async (tx) => tx.query('select sneaky()'))), undefined)
      sub.equal(await codeOf(app.db.read.query('selec')), '42601')
    }
  }
})

t.test("what is written through the read pool's connections at the primary", async (sub) => {
  const bouncer = await startPgBouncer({ target: primary })
  sub.teardown(() => bouncer.stop())
  const insert = "insert into items (name) values ('lent')"
  const settings = { consistency: true, carrier: false, pool: { max: 1 } } as const
  const direct = await createApp(sub, { primary: primary.url, ...settings })
  const reader = await direct.db.read.pool.connect()
  sub.equal(await codeOf(reader.query(insert)), '25006', 'is refused')
  sub.equal((await reader.query('select 1 as one')).rows[0].one, 1)
  reader.release()
  const writer = await direct.db.write.pool.connect()
  sub.equal(await codeOf(writer.query(insert)), undefined)
  writer.release()

  // A session that a pooler shares out can not be set to refuse.
  const pooled = await createApp(sub, { primary: bouncer.url, ...settings })
  const job = pooled.db.session()
  const client = await job.read.pool.connect()
  await client.query(insert)
  client.release()
  sub.ok(job.token(), 'is followed where it can not be refused')
})

t.test('a role that may only read stays so', async (sub) => {
  await primary.admin.query("create role reader login password 'reader'")
  await primary.admin.query('alter role reader set default_transaction_read_only = on')
  await primary.query('grant all on all tables in schema public to reader')
  const url = new URL(primary.url)
  url.username = 'reader'
  url.password = 'reader'
  const app = await createApp(sub, { primary: url.href, pool: { max: 1 } })
  for (let n = 0; n < 2; n++) {
    sub.equal(await codeOf(app.db.read.query('select count(*) from items')), undefined)
    await until(() => app.db.status().primary, { message: 'the primary is known' })
    sub.match(
      await codeOf(app.db.write.query('delete from items')),
      /^(25006|FLOTILLA_DB_ERR_FENCED)$/,
      'the setting is not undone'
    )
    await until(() => app.db.status().primary, { message: 'the primary is known' })
  }
})

t.test('reads are spread, and away from a slow replica', async (sub) => {
  const app = await createApp(sub, servers)
  const count = new Map<number, number>()
  const read = async (): Promise<void> => {
    const { rows } = await app.db.read.query<{ port: number }>('select inet_server_port() as port')
    count.set(rows[0]!.port, (count.get(rows[0]!.port) ?? 0) + 1)
  }
  for (let n = 0; n < 25; n++) await Promise.all([read(), read(), read(), read()])
  sub.strictSame(new Set(count.keys()), new Set(replicas.map((one) => one.port)))
  for (const share of count.values()) sub.ok(share > 10, `${share} of 100`)
})

t.test('one slow moment does not keep a replica out for good', async (sub) => {
  const settings = readOptions({ primary: primary.url })
  const reports = { connections: new ConnectionEvents(), report() {}, refusal() {} }
  const make = (name: string): Server => new Server({ name, config: {} }, 'replica', settings, reports)
  const [slow, quick] = [make('slow'), make('quick')]
  const measure = (server: Server, at: number, duration: number): void => {
    server.began()
    server.ended(at, duration)
  }
  measure(slow, 0, 5_000)
  measure(quick, 0, 1)
  sub.ok(slow.cost(1_000) > quick.cost(1_000) * 100)
  measure(quick, 60_000, 1)
  sub.ok(slow.cost(60_000) < quick.cost(60_000), 'left alone for long enough, it is tried again')
  slow.began()
  sub.ok(slow.cost(120_000) > 1_000, 'but not while it still owes an answer')
})

t.test('messages tell what happened', async (sub) => {
  const seen: Record<string, unknown[]> = { query: [], gate: [], server: [], retry: [] }
  for (const [name, messages] of Object.entries(seen)) {
    const listen = (message: unknown): void => void messages.push(message)
    subscribe(`flotilla:db:${name}`, listen)
    sub.teardown(() => unsubscribe(`flotilla:db:${name}`, listen))
  }
  const app = await createApp(sub, servers)
  await app.db.write.query('select 1')
  await app.db.read.query('select 1')
  await codeOf(app.db.read.query('selec'))
  sub.match(seen['server'], [{ event: 'up' }, { event: 'up' }, { event: 'up' }])
  sub.match(seen['query'], [
    { kind: 'write', role: 'primary', durationMs: Number },
    { kind: 'read', durationMs: Number },
    { kind: 'read', error: { code: '42601' } }
  ])
  sub.ok(seen['gate']!.length >= 2)
  const reading = app.db.session().read.query('select pg_sleep(1) /* moved */')
  await until(
    async () => {
      for (const one of replicas) {
        const { rows } = await one.query(
          "select pg_terminate_backend(pid) as ended from pg_stat_activity where query like '%/* moved */%' and state = 'active' and pid <> pg_backend_pid()"
        )
        if (rows.length > 0) return true
      }
      return false
    },
    { message: 'the backend is terminated' }
  )
  sub.equal(await codeOf(reading), undefined)
  sub.match(seen['retry'], [{ kind: 'read', code: '57P01' }])
})
