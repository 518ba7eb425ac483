import { listen, startPostgres, until } from '@flotilla/testbed'
import { Client } from 'pg'
import t, { type Test } from 'tap'
import type { GateMessage } from '../src/index.js'
import { codeOf, createApp } from './fixtures/app-in-process.js'

const postgres = await startPostgres({ replicas: 2 })
t.teardown(() => postgres.stop())
const { primary, replicas } = postgres
await primary.query('create table pairs (key int primary key, value int)')
await primary.query('create table noise (id serial, text text)')
await primary.query('insert into pairs select n, 0 from generate_series(1, 20) as n')
await postgres.waitForCatchUp()
const servers = { primary: primary.url, replicas: replicas.map(({ url }) => url) }

/** A transaction of another client that writes all the while and does not commit, until the test ends. */
async function writeUncommitted(sub: Test): Promise<() => number> {
  const client = new Client({ connectionString: primary.url })
  await client.connect()
  const stopping = new AbortController()
  let rows = 0
  const writing = (async () => {
    await client.query('begin')
    while (!stopping.signal.aborted) {
      await client.query("insert into noise (text) values (repeat('x', 300))")
      rows++
    }
  })()
  sub.teardown(async () => {
    stopping.abort()
    await writing
    await client.end()
  })
  return () => rows
}

t.test('reads after a write stay on replicas while others write without committing', async (sub) => {
  // What no commit flushes stays unflushed for longer than the test takes.
  await primary.setSetting('wal_writer_delay', '10s')
  sub.teardown(() => primary.setSetting('wal_writer_delay', undefined))
  const app = await createApp(sub, { ...servers, maxWait: '2s' })
  const gates = listen<GateMessage>(sub, 'flotilla:db:gate')
  const rows = await writeUncommitted(sub)
  const author = app.db.session()
  for (let value = 1; value <= 40; value++) {
    await author.write.query('update pairs set value = $1 where key = 1', [value])
    const seen = await author.read.query('select value from pairs where key = 1')
    sub.strictSame(seen.rows, [{ value }])
  }
  const atPrimary = gates.filter(({ outcome }) => outcome === 'primary').length
  sub.comment(
    `${gates.length} reads after writes, ${atPrimary} at the primary; ${rows()} rows of others meanwhile`
  )
  sub.ok(rows() > 40, 'others wrote')
  sub.ok(atPrimary <= 1, `${atPrimary} of ${gates.length} at the primary`)
})

/** Ways to commit before the flush. */
const asynchronous: Record<string, string[]> = {
  'SET LOCAL': ['set local synchronous_commit = off'],
  set_config: ["select set_config('synchronous_commit', 'off', true)"],
  'a quoted name in capitals': ['set local "SYNCHRONOUS_COMMIT" = off'],
  'a function of the database': ['select commit_early()'],
  'the session': ['set synchronous_commit = off']
}

t.test('a commit that is answered before it is flushed is read back as well', async (sub) => {
  await primary.query(
    "create function commit_early() returns text language sql as $$ select set_config('synchronous_commit', 'off', true) $$"
  )
  // As late as can be: what is not flushed by a commit waits for this.
  await primary.setSetting('wal_writer_delay', '10s')
  sub.teardown(() => primary.setSetting('wal_writer_delay', undefined))
  const app = await createApp(sub, { ...servers, maxWait: 0, pool: { max: 1 } })
  let value = 1_000
  for (const [name, before] of Object.entries(asynchronous)) {
    for (let n = 0; n < 10; n++) {
      value++
      const author = app.db.session()
      await author.transaction(async (tx) => {
        for (const text of before) await tx.query(text)
        await tx.query('update pairs set value = $1 where key = 9', [value])
      })
      sub.strictSame(
        (await author.read.query('select value from pairs where key = 9')).rows,
        [{ value }],
        `transaction: ${name}`
      )
      value++
      const client = await author.write.pool.connect()
      await client.query('begin')
      for (const text of before) await client.query(text)
      await client.query('update pairs set value = $1 where key = 9', [value])
      await client.query('commit')
      client.release()
      sub.strictSame(
        (await author.read.query('select value from pairs where key = 9')).rows,
        [{ value }],
        `lent: ${name}`
      )
      if (name !== 'the session') continue
      value++
      await author.write.query('update pairs set value = $1 where key = 9', [value])
      sub.strictSame(
        (await author.read.query('select value from pairs where key = 9')).rows,
        [{ value }],
        'a write'
      )
    }
  }
  await until(async () => (await codeOf(app.db.read.query('select 1'))) === undefined)
})
