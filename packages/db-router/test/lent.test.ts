import { startPgBouncer, startPostgres, until } from '@flotilla/testbed'
import { Kysely, PostgresDialect } from 'kysely'
import { text as textOf } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { Readable } from 'node:stream'
import type { Pool, PoolClient } from 'pg'
import { from as copyFrom, to as copyTo } from 'pg-copy-streams'
import Cursor from 'pg-cursor'
import QueryStream from 'pg-query-stream'
import t, { type Test } from 'tap'
import { codeOf, createApp } from './fixtures/app-in-process.js'

const postgres = await startPostgres({ replicas: 1 })
t.teardown(() => postgres.stop())
const { primary } = postgres
const replica = postgres.replicas[0]!
await primary.query('create table numbers (n int)')
await postgres.waitForCatchUp()
const servers = { primary: primary.url, replicas: [replica.url] }
const SERIES = 'select n from generate_series(1, 1000) as n'

async function streamed(stream: AsyncIterable<{ n: number }>): Promise<number[]> {
  const rows: number[] = []
  for await (const { n } of stream) rows.push(n)
  return rows
}

const thousand = Array.from({ length: 1000 }, (_none, index) => index + 1)

/** The ways in which a library keeps a connection to itself. */
const keepers: Record<string, (client: PoolClient) => Promise<number[]>> = {
  async cursor(client) {
    const cursor = client.query(new Cursor<{ n: number }>(SERIES))
    const rows = [...(await cursor.read(600)), ...(await cursor.read(600))]
    await cursor.close()
    return rows.map(({ n }) => n)
  },
  async 'cursor closed early'(client) {
    const cursor = client.query(new Cursor<{ n: number }>(SERIES))
    await cursor.read(3)
    await cursor.close()
    return thousand
  },
  'query stream': (client) =>
    streamed(client.query(new QueryStream(SERIES, [], { batchSize: 7 })) as AsyncIterable<{ n: number }>),
  async 'COPY to'(client) {
    const text = await textOf(client.query(copyTo(`copy (${SERIES}) to stdout`)))
    return text.trim().split('\n').map(Number)
  }
}

/** What may be under way on the connection before. */
const before: Record<string, (client: PoolClient) => Promise<unknown>> = {
  nothing: async () => undefined,
  'a statement that is awaited': (client) => client.query('select 1'),
  'a statement that is not awaited': async (client) => void client.query('select pg_sleep(0.02)'),
  'three of them': async (client) => {
    for (let n = 0; n < 3; n++) void client.query('select pg_sleep(0.005)')
  },
  'a statement that fails': (client) => codeOf(client.query('selec')),
  'one that fails and is not awaited': async (client) => void codeOf(client.query('selec')),
  'values that can not be sent': (client) =>
    codeOf(
      client.query('select $1', [
        {
          toPostgres: () => {
            throw new Error('no')
          }
        }
      ])
    ),
  'a begin that is not awaited': async (client) => void client.query('begin')
}

async function everyOrder(sub: Test, pools: { read: Pool; write: Pool }): Promise<void> {
  for (const [first, begin] of Object.entries(before)) {
    for (const [name, keep] of Object.entries(keepers)) {
      // The role changes each time, so the router has a setting to send before what the borrower sends.
      for (const kind of ['read', 'write'] as const) {
        const client = await pools[kind].connect()
        await begin(client)
        const behind = client.query('select 41 as n')
        void behind.catch(() => {})
        sub.strictSame(await keep(client), thousand, `${kind}: ${name} after ${first}`)
        sub.strictSame((await behind).rows, [{ n: 41 }])
        const after = client.query('select 42 as n')
        sub.strictSame((await after).rows, [{ n: 42 }])
        client.release()
      }
    }
  }
}

t.test('cursors, streams and COPY at any moment', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 } })
  await everyOrder(sub, { read: app.db.write.pool, write: app.db.write.pool })
  await everyOrder(sub, { read: app.db.read.pool, write: app.db.write.pool })
  // Both on the one connection to the primary.
  const alone = await createApp(sub, { primary: servers.primary, pool: { max: 1 } })
  await everyOrder(sub, { read: alone.db.read.pool, write: alone.db.write.pool })
  sub.match(alone.db.status().servers[0]!.connections, { total: 1, waiting: 0 })
})

t.test('through PgBouncer as well', async (sub) => {
  const bouncer = await startPgBouncer({ target: [primary, replica] })
  sub.teardown(() => bouncer.stop())
  const app = await createApp(sub, { primary: bouncer.url, replicas: bouncer.replicaUrls, pool: { max: 1 } })
  await everyOrder(sub, { read: app.db.read.pool, write: app.db.write.pool })
})

t.test('what COPY wrote is read back, and so is what was not awaited', async (sub) => {
  const app = await createApp(sub, servers)
  for (let n = 0; n < 10; n++) {
    const client = await app.db.write.pool.connect()
    await pipeline(Readable.from([`${n}\n`]), client.query(copyFrom('copy numbers from stdin')))
    client.release()
    const { rowCount } = await app.db.read.query('select 1 from numbers where n = $1', [n])
    sub.equal(rowCount, 1)
    const other = await app.db.write.pool.connect()
    void other.query('insert into numbers values ($1)', [1000 + n])
    other.release()
    sub.equal((await app.db.read.query('select 1 from numbers where n = $1', [1000 + n])).rowCount, 1)
  }
})

t.test('COPY from stdin as an ordinary statement fails and leaves the connection sound', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 } })
  const client = await app.db.write.pool.connect()
  const failing = codeOf(client.query('copy numbers from stdin'))
  const behind = client.query('select 1 as one')
  sub.equal(await failing, '57014')
  sub.equal((await behind).rows[0].one, 1)
  client.release()
  sub.equal((await app.db.write.query('select 2 as two')).rows[0]!['two'], 2)
})

t.test("Kysely's stream", async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 } })
  await primary.query('truncate numbers')
  await primary.query(`insert into numbers ${SERIES}`)
  await postgres.waitForCatchUp()
  for (const pool of [app.db.read.pool, app.db.write.pool, app.db.read.pool]) {
    const kysely = new Kysely<{ numbers: { n: number } }>({
      dialect: new PostgresDialect({ pool, cursor: Cursor })
    })
    const all = kysely.selectFrom('numbers').select('n').orderBy('n')
    sub.strictSame(await streamed(all.stream(100)), thousand)
    for await (const { n } of all.stream(10)) if (n === 25) break
    sub.equal((await all.limit(1).execute())[0]!.n, 1)
  }
})

t.test('a cursor left open does not keep its connection for ever', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1, acquireTimeout: '1m' } })
  const client = await app.db.write.pool.connect()
  const cursor = client.query(new Cursor(SERIES))
  await cursor.read(1)
  client.release()
  sub.equal((await app.db.write.query('select 1 as one')).rows[0]!['one'], 1)
})

t.test('the server terminates a connection with a cursor open and statements in line', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 } })
  const client = await app.db.write.pool.connect()
  const cursor = client.query(new Cursor(SERIES))
  await cursor.read(1)
  const behind = ['select 1', 'select 2'].map((text) => codeOf(client.query(text)))
  await primary.terminateConnections()
  sub.ok(
    (await Promise.all(behind)).every((code) => code !== undefined),
    'all of them fail'
  )
  client.release()
  await until(async () => (await codeOf(app.db.write.query('select 1'))) === undefined)
})

t.test('what is no query', async (sub) => {
  const app = await createApp(sub, servers)
  const client = await app.db.write.pool.connect()
  const query = client.query.bind(client) as (...args: unknown[]) => unknown
  sub.throws(() => query(undefined), TypeError)
  sub.throws(() => query('select 1', [], 'no function'), TypeError)
  sub.ok(await codeOf(query({}) as Promise<unknown>))
  sub.equal((await client.query('select 1 as one')).rows[0].one, 1)
  client.release()
})

t.test('the stack of an error leads back to its caller', async (sub) => {
  const app = await createApp(sub, servers)
  const client = await app.db.write.pool.connect()
  async function namedCaller(): Promise<void> {
    await client.query('selec')
  }
  sub.match(await namedCaller().catch((error: Error) => error.stack), /namedCaller/)
  client.release()
})
