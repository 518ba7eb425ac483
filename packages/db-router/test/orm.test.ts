import { startPostgres } from '@flotilla/testbed'
import { eq } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { integer, pgTable, serial, text } from 'drizzle-orm/pg-core'
import knex from 'knex'
import { Kysely, PostgresDialect, sql, type Generated } from 'kysely'
import { Pool, Query } from 'pg'
import t from 'tap'
import { useRoutedPool } from '../src/index.js'
import { codeOf, createApp } from './fixtures/app-in-process.js'

const postgres = await startPostgres({ replicas: 1 })
t.teardown(() => postgres.stop())
const { primary, replicas } = postgres
const replica = replicas[0]!
const servers = { primary: primary.url, replicas: [replica.url] }
await primary.query(
  'create table notes (id serial primary key, body text not null, likes int not null default 0)'
)
await postgres.waitForCatchUp()

const ROUNDS = 12

t.test('Drizzle', async (sub) => {
  const app = await createApp(sub, servers)
  const notes = pgTable('notes', {
    id: serial('id').primaryKey(),
    body: text('body').notNull(),
    likes: integer('likes').notNull().default(0)
  })
  const write = drizzle(app.db.write.pool)
  const read = drizzle(app.db.read.pool)
  for (let n = 0; n < ROUNDS; n++) {
    const [made] = await write
      .insert(notes)
      .values({ body: `drizzle ${n}` })
      .returning()
    const [seen] = await read.select().from(notes).where(eq(notes.id, made!.id))
    sub.strictSame(seen, made, 'read back')
    // A transaction of its own, on a connection of the pool.
    await write.transaction(async (tx) => {
      await tx
        .update(notes)
        .set({ likes: n + 1 })
        .where(eq(notes.id, made!.id))
    })
    const [liked] = await read.select().from(notes).where(eq(notes.id, made!.id))
    sub.equal(liked?.likes, n + 1, 'read back after a transaction')
  }
  await sub.rejects(
    write.transaction(async (tx) => {
      await tx.insert(notes).values({ body: 'never' })
      tx.rollback()
    })
  )
  sub.equal((await read.select().from(notes).where(eq(notes.body, 'never'))).length, 0)
})

t.test('Kysely', async (sub) => {
  const app = await createApp(sub, servers)
  interface Tables {
    notes: { id: Generated<number>; body: string; likes: Generated<number> }
  }
  const write = new Kysely<Tables>({ dialect: new PostgresDialect({ pool: app.db.write.pool }) })
  const read = new Kysely<Tables>({ dialect: new PostgresDialect({ pool: app.db.read.pool }) })
  for (let n = 0; n < ROUNDS; n++) {
    const made = await write
      .insertInto('notes')
      .values({ body: `kysely ${n}` })
      .returningAll()
      .executeTakeFirstOrThrow()
    const seen = await read.selectFrom('notes').selectAll().where('id', '=', made.id).executeTakeFirst()
    sub.strictSame(seen, made, 'read back')
    await write.transaction().execute(async (tx) => {
      await tx
        .updateTable('notes')
        .set({ likes: n + 1 })
        .where('id', '=', made.id)
        .execute()
      await sql`select 1`.execute(tx)
    })
    const liked = await read.selectFrom('notes').selectAll().where('id', '=', made.id).executeTakeFirst()
    sub.equal(liked?.likes, n + 1, 'read back after a transaction')
  }
  await write.destroy()
  sub.equal(
    await codeOf(app.db.write.query('select 1')),
    undefined,
    'an ORM that ends its pool does not end ours'
  )
})

t.test('Knex', async (sub) => {
  const app = await createApp(sub, servers)
  const write = useRoutedPool(knex({ client: 'pg' }), app.db.write.pool)
  const read = useRoutedPool(knex({ client: 'pg' }), app.db.read.pool)
  for (let n = 0; n < ROUNDS; n++) {
    const [made] = await write('notes')
      .insert({ body: `knex ${n}` })
      .returning('*')
    sub.strictSame(await read('notes').where({ id: made.id }).first(), made, 'read back')
    await write.transaction(async (tx) => {
      await tx('notes')
        .where({ id: made.id })
        .update({ likes: n + 1 })
    })
    sub.equal(
      (await read('notes').where({ id: made.id }).first()).likes,
      n + 1,
      'read back after a transaction'
    )
  }
  await write.destroy()
  await read.destroy()
})

t.test('Knex: streams, cancels and nested transactions on one connection', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 } })
  for (const pool of [app.db.write.pool, app.db.read.pool, app.db.write.pool]) {
    const db = useRoutedPool(knex({ client: 'pg' }), pool)
    const series = (): ReturnType<typeof db.raw> => db.raw('select n from generate_series(1, 500) as n')
    for (let round = 0; round < 3; round++) {
      const rows: unknown[] = []
      for await (const row of series().stream()) rows.push(row)
      sub.equal(rows.length, 500)
      // Left early, and with the next statement at once.
      for await (const row of series().stream()) {
        if (row.n === 3) break
      }
      sub.equal((await db.raw('select 1 as one')).rows[0].one, 1)
    }
    const late = db.raw('select pg_sleep(60)').timeout(50, { cancel: true })
    sub.match(await codeOf(late), 'KnexTimeoutError')
    sub.equal((await db.raw('select 2 as two')).rows[0].two, 2, 'the one connection is free')
    await db.destroy()
  }
  const write = useRoutedPool(knex({ client: 'pg' }), app.db.write.pool)
  await write.transaction(async (outer) => {
    await outer('notes').insert({ body: 'outer' })
    await sub.rejects(
      outer.transaction(async (inner) => {
        await inner('notes').insert({ body: 'inner' })
        throw new Error('back')
      })
    )
  })
  const { rows } = await app.db.read.query("select body from notes where body in ('outer', 'inner')")
  sub.strictSame(rows, [{ body: 'outer' }])
  sub.equal(app.db.status().servers[0]!.connections.total, 1)
})

t.test('the pools are pg pools', async (sub) => {
  const app = await createApp(sub, servers)
  const { pool } = app.db.write
  sub.ok(pool instanceof Pool)
  sub.equal((await pool.query('select 1 as one')).rows[0].one, 1)
  sub.equal((await pool.query({ text: 'select $1::int as n', values: [2] })).rows[0].n, 2)
  await new Promise<void>((resolve) => {
    pool.query('select $1::int as n', [3], (error, result) => {
      sub.equal(error ?? undefined, undefined)
      sub.equal(result.rows[0].n, 3)
      resolve()
    })
  })
  await new Promise<void>((resolve) => {
    pool.connect((error, client, release) => {
      sub.equal(error, undefined)
      client!.query('selec', (failed: Error & { code?: string }) => {
        sub.equal(failed.code, '42601')
        release()
        resolve()
      })
    })
  })
  sub.ok(pool.totalCount >= 1)
  await pool.end()
  await sub.rejects(pool.query('select 1'), /after calling end/)
  sub.equal((await app.db.write.pool.query('select 1 as one')).rows[0].one, 1, 'the next one works')
})

t.test('what a query object did on a lent connection is read back too', async (sub) => {
  const app = await createApp(sub, servers)
  for (let n = 0; n < ROUNDS; n++) {
    const client = await app.db.write.pool.connect()
    // The driver's own query object, whose statement the router does not see.
    const query = client.query(new Query(`insert into notes (body) values ('object ${n}')`))
    await new Promise((resolve) => query.once('end', resolve))
    client.release()
    const { rowCount } = await app.db.read.pool.query('select 1 from notes where body = $1', [`object ${n}`])
    sub.equal(rowCount, 1)
  }
})

t.test('a lent connection is of no use once given back', async (sub) => {
  const app = await createApp(sub, servers)
  const client = await app.db.write.pool.connect()
  client.release()
  sub.equal(await codeOf(client.query('select 1')), 'FLOTILLA_DB_ERR_RELEASED')
  const dropped = await app.db.write.pool.connect()
  dropped.release(true)
  sub.equal(await codeOf(app.db.write.query('select 1')), undefined)
})
