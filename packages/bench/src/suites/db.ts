import { Client } from 'pg'
import { work } from '../harness/measures.js'
import { defineSuite, type Case, type SubjectSpec } from '../harness/suite.js'

const ROWS = 1_000
const PEERS = ['floor', 'drizzle-orm', 'sequelize', 'typeorm', 'fastify-postgres'] as const

const rate = (
  name: string,
  title: string,
  subjects: readonly string[] | Readonly<Record<string, SubjectSpec>>
): Case => ({ name, title, unit: 'calls/s', subjects, measure: work(name) })

/** For work that does not follow what is written. */
const withoutTokens = {
  flotilla: { process: 'flotilla-without-tokens' },
  ...Object.fromEntries(PEERS.map((name) => [name, {}]))
}

export default defineSuite({
  name: 'db',
  title: 'PostgreSQL primary and two replicas',
  servers: ['postgres'],
  subjects: new URL('../subjects/db.js', import.meta.url),
  async prepare(env) {
    const client = new Client({ connectionString: env['DATABASE_URL']! })
    await client.connect()
    await client.query(
      `DROP TABLE IF EXISTS posts, counters;
       CREATE TABLE posts (id int PRIMARY KEY, body text NOT NULL);
       CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL) WITH (fillfactor = 50)`
    )
    await client.query("INSERT INTO posts SELECT n, 'post ' || n FROM generate_series(0, $1::int) n", [ROWS])
    await client.query('INSERT INTO counters SELECT n, 0 FROM generate_series(0, $1::int) n', [ROWS])
    await client.end()
    await Promise.all([env['DATABASE_REPLICA_URL']!, env['DATABASE_SECOND_REPLICA_URL']!].map(caughtUp))
  },
  cases: [
    rate('read', 'one row by its key from a replica, 8 callers', ['flotilla', ...PEERS]),
    rate('write', 'one UPDATE of a row, not followed, 8 callers', withoutTokens),
    rate(
      'write-with-token',
      'one UPDATE and its position in the log: in one flight, or with a second question',
      ['flotilla', 'floor']
    ),
    rate(
      'read-after-write',
      'one UPDATE and its reading back, 8 callers: flotilla and floor from a replica once it has it, the others from the primary',
      ['flotilla', ...PEERS]
    ),
    rate('transaction', 'BEGIN, UPDATE, SELECT, COMMIT, 8 callers', ['flotilla', ...PEERS]),
    rate('read-scaling', 'one row by its key over two replicas, 32 callers', ['flotilla', ...PEERS])
  ]
})

async function caughtUp(connectionString: string): Promise<void> {
  const replica = new Client({ connectionString })
  await replica.connect()
  for (let waited = 0; waited < 10_000; waited += 50) {
    const { rows } = await replica.query("SELECT to_regclass('counters') IS NOT NULL AS there")
    if ((rows[0] as { there: boolean }).there) {
      const { rows: counts } = await replica.query('SELECT count(*)::int AS n FROM counters')
      if ((counts[0] as { n: number }).n > ROWS) break
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  await replica.end()
}
