import postgres from '@fastify/postgres'
import fastify from 'fastify'
import { POOL, READ, READ_BACK, WRITE, type Addresses, type Database } from './serve.js'

/** One registration for each server, as its README has it; which one to ask is the app's to say. */
export async function fastifyPostgres({ primary, replicas }: Addresses): Promise<Database> {
  const app = fastify()
  await app.register(postgres, { connectionString: primary, max: POOL })
  await app.register(postgres, { connectionString: replicas[0]!, max: POOL, name: 'replica' })
  await app.ready()
  const { pg } = app
  const replica = (pg as unknown as { replica: typeof pg }).replica
  return {
    async read(id) {
      return (await replica.query<{ id: number; body: string }>(READ, [id])).rows[0]
    },
    async write(id) {
      return (await pg.query<{ n: number }>(WRITE, [id])).rows[0]!.n
    },
    async readAfterWrite(id) {
      const written = await pg.query<{ n: number }>(WRITE, [id])
      const seen = await pg.query<{ n: number }>(READ_BACK, [id])
      return { wrote: written.rows[0]!.n, read: seen.rows[0]!.n }
    },
    transaction: (id) =>
      pg.transact(async (client) => {
        await client.query(WRITE, [id])
        return (await client.query<{ n: number }>(READ_BACK, [id])).rows[0]!.n
      }),
    close: async () => app.close()
  }
}
