import { eq, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { integer, pgTable, text, withReplicas } from 'drizzle-orm/pg-core'
import { Pool } from 'pg'
import { POOL, type Addresses, type Database } from './serve.js'

export async function drizzleOrm({ primary, replicas }: Addresses): Promise<Database> {
  const posts = pgTable('posts', { id: integer('id').primaryKey(), body: text('body').notNull() })
  const counters = pgTable('counters', { id: integer('id').primaryKey(), n: integer('n').notNull() })
  const pools = [primary, ...replicas].map((connectionString) => new Pool({ connectionString, max: POOL }))
  const [first, second, third] = pools.map((pool) => drizzle(pool))
  const db = withReplicas(first!, [second!, third!])
  const increment = { n: sql`${counters.n} + 1` }
  return {
    async read(id) {
      return (await db.select().from(posts).where(eq(posts.id, id)))[0]
    },
    async write(id) {
      const rows = await db
        .update(counters)
        .set(increment)
        .where(eq(counters.id, id))
        .returning({ n: counters.n })
      return rows[0]!.n
    },
    async readAfterWrite(id) {
      const rows = await db
        .update(counters)
        .set(increment)
        .where(eq(counters.id, id))
        .returning({ n: counters.n })
      const seen = await db.$primary.select({ n: counters.n }).from(counters).where(eq(counters.id, id))
      return { wrote: rows[0]!.n, read: seen[0]!.n }
    },
    transaction: (id) =>
      db.transaction(async (tx) => {
        await tx.update(counters).set(increment).where(eq(counters.id, id))
        return (await tx.select({ n: counters.n }).from(counters).where(eq(counters.id, id)))[0]!.n
      }),
    close: () => Promise.all(pools.map((pool) => pool.end()))
  }
}
