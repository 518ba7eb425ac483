import database from '@flotilla/db-router'
import fastify from 'fastify'
import { POOL, READ, READ_BACK, WRITE, type Addresses, type Database } from './serve.js'

export const flotilla = (addresses: Addresses): Promise<Database> => open(addresses, true)

/** As most routers: any replica answers any read. */
export const flotillaWithoutTokens = (addresses: Addresses): Promise<Database> => open(addresses, false)

async function open({ primary, replicas }: Addresses, consistency: boolean): Promise<Database> {
  const app = fastify()
  await app.register(database, { primary, replicas, pool: { max: POOL }, carrier: false, consistency })
  await app.ready()
  const { db } = app
  return {
    async read(id) {
      return (await db.session().read.query<{ id: number; body: string }>(READ, [id])).rows[0]
    },
    async write(id) {
      return (await db.write.query<{ n: number }>(WRITE, [id])).rows[0]!.n
    },
    async writeWithToken(id) {
      const author = db.session()
      const { rows } = await author.write.query<{ n: number }>(WRITE, [id])
      return { n: rows[0]!.n, token: author.token() }
    },
    async readAfterWrite(id) {
      const author = db.session()
      const written = await author.write.query<{ n: number }>(WRITE, [id])
      const seen = await author.read.query<{ n: number }>(READ_BACK, [id])
      return { wrote: written.rows[0]!.n, read: seen.rows[0]!.n }
    },
    transaction: (id) =>
      db.transaction(async (tx) => {
        await tx.query(WRITE, [id])
        return (await tx.query<{ n: number }>(READ_BACK, [id])).rows[0]!.n
      }),
    close: async () => app.close()
  }
}
