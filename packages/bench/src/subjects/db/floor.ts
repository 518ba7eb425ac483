import { setTimeout as after } from 'node:timers/promises'
import { Pool } from 'pg'
import { POOL, READ, READ_BACK, WRITE, type Addresses, type Database } from './serve.js'

/** Raw `pg` pools, and by hand what the job needs beyond them. */
export async function floor({ primary, replicas }: Addresses): Promise<Database> {
  const writer = new Pool({ connectionString: primary, max: POOL })
  const readers = replicas.map((connectionString) => new Pool({ connectionString, max: POOL }))
  let turn = 0
  const writeWithToken = async (id: number): Promise<{ n: number; token: string }> => {
    const client = await writer.connect()
    try {
      const { rows } = await client.query<{ n: number }>(WRITE, [id])
      const position = await client.query<{ lsn: string }>('SELECT pg_current_wal_insert_lsn()::text AS lsn')
      return { n: rows[0]!.n, token: position.rows[0]!.lsn }
    } finally {
      client.release()
    }
  }
  return {
    async read(id) {
      return (await readers[turn++ % readers.length]!.query<{ id: number; body: string }>(READ, [id])).rows[0]
    },
    async write(id) {
      return (await writer.query<{ n: number }>(WRITE, [id])).rows[0]!.n
    },
    writeWithToken,
    // By hand what flotilla does: a replica is asked until it has what was written, and then read from.
    async readAfterWrite(id) {
      const { n, token } = await writeWithToken(id)
      const client = await readers[turn++ % readers.length]!.connect()
      try {
        for (;;) {
          const { rows } = await client.query<{ there: boolean }>(
            'SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn AS there',
            [token]
          )
          if (rows[0]!.there) break
          await after(1)
        }
        const seen = await client.query<{ n: number }>(READ_BACK, [id])
        return { wrote: n, read: seen.rows[0]!.n }
      } finally {
        client.release()
      }
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
