import type { RouterClient, Statement, StatementCallback } from './router-client.js'
import type { Server } from './server.js'
import { parseLsn, type Lsn } from './lsn.js'
import type { Requirement } from './requirement.js'

// READ COMMITTED by name: each statement then sees at least what the one before it found replayed. A snapshot kept
// for the whole transaction could be older than the position read in it.
const OPEN: Statement = {
  text:
    'begin isolation level read committed read only; select pg_last_wal_replay_lsn()::text, ' +
    'extract(epoch from pg_postmaster_start_time())::text, pg_is_in_recovery() /* flotilla: verify */',
  rowMode: 'array'
}

/** For {@link sendReadOnly} if nothing else must be known. */
export const BEGIN_READ_ONLY: Statement = { text: 'begin read only' }
const COMMIT: Statement = { text: 'commit' }

/** The server that answered had not replayed what the read must see, or is not known. */
export class NotFreshError extends Error {}

/**
 * A read that brings its proof along, for connections that may lead to any of several servers (a transaction pooler,
 * an address that moves): the answering server's own position is asked for in the same transaction and the same
 * flight, so it costs no round trip, and a late server's rows are thrown away.
 *
 * @param replayed gets the position where the server is the one that the monitor looks at
 */
export function sendVerified(
  client: RouterClient,
  server: Server,
  statement: Statement,
  requirement: Exclude<Requirement, 'primary' | undefined>,
  replayed: (lsn: Lsn) => void,
  callback: StatementCallback
): void {
  const check = (results: unknown): Error | undefined => {
    const [, select] = results as { rows: [string | null, string, boolean][] }[]
    const [text, identity, recovery] = select!.rows[0]!
    const lsn = parseLsn(text)
    const timeline = server.known.get(identity)
    if (lsn !== undefined && recovery && identity === server.observed?.identity) replayed(lsn)
    const fresh =
      recovery && lsn !== undefined && lsn >= requirement.lsn && (timeline ?? 0) >= requirement.timeline
    return fresh ? undefined : new NotFreshError(`${server.name} has not replayed what the read must see`)
  }
  sendReadOnly(client, OPEN, check, statement, callback)
}

/**
 * A read in a transaction of its own that can not write, in one flight: for sessions that can not be set to refuse
 * writes. A replica does so by itself.
 *
 * @param check gets what BEGIN was answered, and says why the read's own answer does not count
 */
export function sendReadOnly(
  client: RouterClient,
  begin: Statement,
  check: (results: unknown) => Error | undefined,
  statement: Statement,
  callback: StatementCallback
): void {
  let failure: Error | undefined
  let answer: Parameters<StatementCallback> | undefined
  client.together(() => {
    client.ask(begin, (error, results) => {
      failure = error ?? check(results)
    })
    // One statement: a text of several could end the transaction that keeps the second one from writing.
    client.send(
      statement,
      (error, result) => {
        answer = [error, result]
      },
      true
    )
    client.ask(COMMIT, (error) => {
      const [failed, result] = answer!
      // The statement's own error counts only if the server was entitled to answer it.
      callback(failure ?? failed ?? error, result)
    })
  })
}
