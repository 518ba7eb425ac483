import type pg from 'pg'
import type { CausalSession } from './causal-session.js'
import { endOfRecord, parseLsn, type WalLayout } from './lsn.js'
import type { RouterClient, Statement } from './router-client.js'
import { codeOf } from './sqlstate.js'
import type { Position } from './token.js'

// The insert position, not the flush position: with synchronous_commit off a commit is answered before it
// is flushed. The file name's first 8 digits are the timeline, from the same moment.
const TEXT =
  'select pg_current_wal_insert_lsn()::text as lsn, pg_walfile_name(pg_current_wal_insert_lsn()) as file /* flotilla: position */'

// A transaction pooler may hand the next statement to a server session that never saw the name.
const PREPARED: Statement = { name: 'flotilla_position', text: TEXT }
const UNNAMED: Statement = { text: TEXT }

// in_failed_sql_transaction: nothing was committed, so there is nothing to know.
const IN_FAILED_TRANSACTION = '25P02'

/** BEGIN and nothing else, behind comments such as those that tracing puts in front. */
const ONLY_BEGIN = /^(?:\s|\/\*(?:[^*]|\*(?!\/))*\*\/|--[^\n]*\n)*(?:begin|start\s+transaction)\b[^;]*;?\s*$/i

/** Where captured positions go, and what is needed to read them. */
export interface PositionSink {
  /** Of the cluster; `undefined` until a server of it has been seen. */
  readonly systemId: bigint | undefined
  readonly layout: WalLayout | undefined
  /** A position the primary has just reported. */
  reached(position: Position): void
}

/**
 * Asks for the position right behind what was just sent on `client`, in the same flight: it costs no round trip,
 * and since the server runs it after the write's own commit it is at or past that commit.
 */
export function capturePosition(
  client: RouterClient,
  session: CausalSession,
  sink: PositionSink,
  done: (error?: Error) => void
): void {
  client.send(client.pooled ? UNNAMED : PREPARED, (error, result) => {
    const position = error ? undefined : readPosition(result, sink)
    if (position) {
      session.wrote(position)
      sink.reached(position)
    } else if (codeOf(error) !== IN_FAILED_TRANSACTION) {
      session.lost()
    }
    done(error)
  })
}

function readPosition(result: pg.QueryResult, sink: PositionSink): Position | undefined {
  const { lsn, file } = result.rows[0] as { lsn: string; file: string }
  const insert = parseLsn(lsn)
  if (insert === undefined || sink.systemId === undefined) return undefined
  return {
    systemId: sink.systemId,
    timeline: Number.parseInt(file.slice(0, 8), 16),
    lsn: endOfRecord(insert, sink.layout)
  }
}

/**
 * Whether a statement on a checked-out connection may end with something committed: any outside a transaction,
 * and inside one those that could end it. Asking once too often costs microseconds, once too seldom a stale read.
 */
export function mayCommit(text: string, status: ReturnType<RouterClient['getTransactionStatus']>): boolean {
  if (status === 'T' || status === 'E') return /\b(?:commit|end|prepare)\b/i.test(text)
  return !ONLY_BEGIN.test(text)
}
