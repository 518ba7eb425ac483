import type { FastifyInstance } from 'fastify'

/** Any number that no other program uses for its own advisory lock. */
const MIGRATION_LOCK = 7_202_611

/** Brings the schema up. Of instances that start together the first does it and the others wait. */
export async function migrate(app: FastifyInstance): Promise<void> {
  await app.db.transaction(async (tx) => {
    // Of the transaction, not of the session: it holds behind a transaction pooler as well.
    await tx.query('SELECT pg_advisory_xact_lock($1)', [MIGRATION_LOCK])
    await tx.query(`
      CREATE TABLE IF NOT EXISTS posts (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        author text NOT NULL,
        body text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        key text,
        UNIQUE (author, key)
      )`)
    await tx.query('CREATE INDEX IF NOT EXISTS posts_author ON posts (author)')
  })
}
