import { Pool } from 'pg'
import { POOL, READ, READ_BACK, WRITE, type Addresses, type Database } from './serve.js'

/** Raw `pg` pools, and by hand what the job needs beyond them. */
export async function floor({ primary, replicas }: Addresses): Promise<Database> {
  const writer = new Pool({ connectionString: primary, max: POOL })
  const readers = replicas.map((connectionString) => new Pool({ connectionString, max: POOL }))
  let turn = 0
  return {
    async read(id) {
      return (await readers[turn++ % readers.length]!.query<{ id: number; body: string }>(READ, [id])).rows[0]
    },
    async write(id) {
      return (await writer.query<{ n: number }>(WRITE, [id])).rows[0]!.n
    },
    async writeWithToken(id) {
      const client = await writer.connect()
      try {
        const { rows } = await client.query<{ n: number }>(WRITE, [id])
        const position = await client.query<{ lsn: string }>(
          'SELECT pg_current_wal_insert_lsn()::text AS lsn'
        )
        return { n: rows[0]!.n, token: position.rows[0]!.lsn }
      } finally {
        client.release()
      }
    },
    // Without positions, only the primary surely shows a write.
    async readAfterWrite(id) {
      const written = await writer.query<{ n: number }>(WRITE, [id])
      const seen = await writer.query<{ n: number }>(READ_BACK, [id])
      return { wrote: written.rows[0]!.n, read: seen.rows[0]!.n }
    },
    async transaction(id) {
      const client = await writer.connect()
      try {
        await client.query('BEGIN')
        await client.query(WRITE, [id])
        const { rows } = await client.query<{ n: number }>(READ_BACK, [id])
        await client.query('COMMIT')
        return rows[0]!.n
      } catch (error) {
        await client.query('ROLLBACK')
        throw error
      } finally {
        client.release()
      }
    },
    close: () => Promise.all([writer, ...readers].map((pool) => pool.end()))
  }
}
