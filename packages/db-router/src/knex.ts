import type { Pool, PoolClient } from 'pg'
import { cancelBackend } from './cancel.js'
import type { RouterClient } from './router-client.js'

/** What of a Knex instance is used. */
export interface KnexLike {
  /** The client of its dialect, as Knex itself types it. */
  readonly client: object
}

/** Where Knex gets connections from and gives them back to. */
interface KnexClient {
  acquireConnection: () => Promise<PoolClient>
  releaseConnection: (loan: PoolClient) => Promise<void>
  cancelQuery: (loan: PoolClient) => Promise<void>
}

/**
 * Has a Knex instance take its connections from `db.read.pool` or `db.write.pool`, so that what it writes is read back. Streams,
 * transactions and `.timeout(ms, { cancel: true })` work.
 *
 * @returns the same instance
 */
export function useRoutedPool<K extends KnexLike>(knex: K, pool: Pool): K {
  const client = knex.client as KnexClient
  const lent = new WeakSet<PoolClient>()
  client.acquireConnection = async () => {
    // An object of its own for each loan: Knex gives the connection of a stream back twice, and by then it may be lent again.
    const loan = Object.create(await pool.connect()) as PoolClient
    lent.add(loan)
    return loan
  }
  client.releaseConnection = async (loan) => {
    if (lent.delete(loan)) loan.release()
  }
  // A CancelRequest takes no connection of the pool, which may be used up by the statements themselves.
  client.cancelQuery = (loan) => cancelBackend(loan as unknown as RouterClient)
  return knex
}
