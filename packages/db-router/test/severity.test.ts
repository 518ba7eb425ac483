import { startPgBouncer, startPostgres } from '@flotilla/testbed'
import t, { type Test } from 'tap'
import { codeOf, createApp } from './fixtures/app-in-process.js'

const postgres = await startPostgres({ replicas: 0 })
t.teardown(() => postgres.stop())
const { primary } = postgres
await primary.query('create table items (id int)')

const raise = (code: string): string =>
  `do $$ begin raise exception 'of a connection elsewhere' using errcode = '${code}'; end $$`

async function keepsItsConnection(sub: Test, url: string): Promise<void> {
  const app = await createApp(sub, { primary: url, pool: { max: 1 } })
  const { db } = app
  // PgBouncer gives the same client another server now and then, but keeps the client.
  const client = await db.write.pool.connect()
  client.release()
  for (const code of ['08P01', '08001', '08006', '57P01', '57P03']) {
    sub.equal(await codeOf(db.write.query(raise(code))), code, `a write: ${code} as it is`)
    sub.equal(await codeOf(db.read.query(raise(code))), code, `a read: ${code} as it is`)
    sub.equal(await codeOf(db.transaction(async (tx) => tx.query(raise(code)))), code, 'in a transaction')
    sub.equal(await codeOf(db.write.pool.query(raise(code))), code, 'through the pool')
  }
  const [server] = db.status().servers
  sub.match(server, { breaker: 'closed', connections: { total: 1 } })
  const again = await db.write.pool.connect()
  sub.equal(again, client, 'the same connection')
  again.release()
}

t.test('class 08 raised by a statement is no lost connection', (sub) => keepsItsConnection(sub, primary.url))

t.test('through PgBouncer neither', async (sub) => {
  const bouncer = await startPgBouncer({ target: primary })
  sub.teardown(() => bouncer.stop())
  await keepsItsConnection(sub, bouncer.url)
})

t.test('a value too many (08P01 of the server itself)', async (sub) => {
  const app = await createApp(sub, { primary: primary.url, pool: { max: 1 } })
  const pid = async (): Promise<unknown> =>
    (await app.db.write.query('select pg_backend_pid() as pid')).rows[0]!['pid']
  const first = await pid()
  for (let n = 0; n < 5; n++) {
    sub.equal(await codeOf(app.db.write.query('insert into items values ($1)', [1, 2])), '08P01')
    sub.equal(await codeOf(app.db.read.query('select $1::int', [1, 2])), '08P01')
  }
  sub.equal(await pid(), first)
  sub.equal(app.db.status().servers[0]!.breaker, 'closed')
})

t.test('in a language other than English', async (sub) => {
  // Whether or not the server has the translation, the driver sees its word for ERROR.
  const app = await createApp(sub, { primary: primary.url, pool: { max: 1 } })
  const pid = async (): Promise<unknown> =>
    (await app.db.write.query('select pg_backend_pid() as pid')).rows[0]!['pid']
  const first = await pid()
  const client = await app.db.write.pool.connect()
  const { connection } = client as unknown as { connection: NodeJS.EventEmitter }
  client.release()
  connection.prependListener('errorMessage', (message: { severity: string }) => (message.severity = 'FEHLER'))
  sub.equal(await codeOf(app.db.write.query(raise('08001'))), '08001')
  sub.equal(await codeOf(app.db.write.query(raise('08001'))), '08001')
  sub.equal(await pid(), first)
  connection.prependListener(
    'errorMessage',
    (message: { severity: string }) => (message.severity = 'SCHWERWIEGEND')
  )
  sub.equal(
    await codeOf(app.db.write.query('select pg_terminate_backend(pg_backend_pid())')),
    'FLOTILLA_DB_ERR_OUTCOME_UNKNOWN'
  )
})

async function oneStatement(sub: Test, url: string): Promise<void> {
  const app = await createApp(sub, { primary: url, pool: { max: 1 } })
  const count = async (): Promise<unknown> =>
    (await primary.query('select count(*)::int as n from items')).rows[0]!['n']
  const before = await count()
  for (const text of [
    'commit; insert into items values (1)',
    'select 1; commit; begin; insert into items values (1)',
    'begin read write; insert into items values (1); commit',
    'rollback; insert into items values (1)'
  ]) {
    sub.equal(await codeOf(app.db.read.query(text)), '42601', text)
    sub.equal(await codeOf(app.db.read.pool.query(text)), '42601', text)
    sub.equal(await codeOf(app.db.read.query({ text, rowMode: 'array' })), '42601', text)
  }
  for (const text of ['commit', 'rollback', 'begin read write', 'set transaction read write', 'end', '']) {
    await codeOf(app.db.read.query(text))
    sub.equal(
      await codeOf(app.db.read.query('insert into items values (1)')),
      'FLOTILLA_DB_ERR_NOT_A_READ',
      `after ${text}`
    )
  }
  sub.equal(await count(), before, 'nothing was written')
  sub.equal((await app.db.read.query('select 1 as one')).rows[0]!['one'], 1)
}

t.test('a read is one statement, and can not end what keeps it from writing', (sub) =>
  oneStatement(sub, primary.url)
)

t.test('behind PgBouncer too', async (sub) => {
  const bouncer = await startPgBouncer({ target: primary })
  sub.teardown(() => bouncer.stop())
  await oneStatement(sub, bouncer.url)
})
