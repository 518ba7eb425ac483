import { callsPerSecond, type ServeSubject } from '../../harness/subject.js'
import { WrongAnswer } from '../../harness/suite.js'

/** Connections of each pool, the same for every subject. */
export const POOL = 10
/** Callers at a time; below the pool, so that what is measured is not the wait for a connection. */
const LANES = 8
/** Callers at a time where reads are to spread over the replicas. */
const MANY_LANES = 32
const ROWS = 1_000

export const READ = 'SELECT id, body FROM posts WHERE id = $1'
export const WRITE = 'UPDATE counters SET n = n + 1 WHERE id = $1 RETURNING n'
export const READ_BACK = 'SELECT n FROM counters WHERE id = $1'

export interface Addresses {
  readonly primary: string
  readonly replicas: readonly string[]
}

/** What each subject does its own way; all give what the server answered. */
export interface Database {
  /** One row by its key from a replica. */
  read(id: number): Promise<{ id: number; body: string } | undefined>
  /** One UPDATE on the primary; gives the new number. */
  write(id: number): Promise<number>
  /** The same, and the position of the write in the log. */
  writeWithToken?(id: number): Promise<{ n: number; token: string | undefined }>
  /** A write and its reading back, as one client. */
  readAfterWrite?(id: number): Promise<{ wrote: number; read: number }>
  /** UPDATE and SELECT in a transaction; gives the number. */
  transaction(id: number): Promise<number>
  close(): Promise<unknown>
}

/** Runs the suite's work on one subject, and checks every answer. */
export function serve(open: (addresses: Addresses) => Promise<Database>): ServeSubject {
  return async ({ env }) => {
    const db = await open({
      primary: env['DATABASE_URL']!,
      replicas: [env['DATABASE_REPLICA_URL']!, env['DATABASE_SECOND_REPLICA_URL']!]
    })
    const read = async (index: number): Promise<void> => {
      const id = (index * 7) % ROWS
      const row = await db.read(id)
      if (row?.id !== id || row.body !== `post ${id}`)
        throw new WrongAnswer(`read ${id}: ${JSON.stringify(row)}`)
    }
    const run =
      (once: (index: number) => Promise<unknown>, concurrency = LANES) =>
      ({ ms }: { ms: number }): Promise<number> =>
        callsPerSecond(ms, once, { batch: 8, concurrency })
    // Rows of one's own for each lane: what is measured is not the wait for a row's lock.
    const number = (n: unknown): void => {
      if (typeof n !== 'number' || n < 1) throw new WrongAnswer(`not a number: ${JSON.stringify(n)}`)
    }
    return {
      work: {
        read: run(read),
        'read-scaling': run(read, MANY_LANES),
        write: run(async (index) => number(await db.write(index % ROWS))),
        'write-with-token': run(async (index) => {
          const { n, token } = await db.writeWithToken!(index % ROWS)
          number(n)
          if (!token) throw new WrongAnswer('the write came without its position')
        }),
        'read-after-write': run(async (index) => {
          const { wrote, read: seen } = await db.readAfterWrite!(index % ROWS)
          if (seen < wrote) throw new WrongAnswer(`stale: wrote ${wrote}, read ${seen}`)
        }),
        transaction: run(async (index) => number(await db.transaction(index % ROWS)))
      },
      close: async () => void (await db.close())
    }
  }
}
