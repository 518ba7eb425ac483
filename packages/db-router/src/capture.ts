import type { CausalSession } from './causal-session.js'
import { endOfRecord, parseLsn, type WalLayout } from './lsn.js'
import { askPosition, type PositionMode } from './position-query.js'
import type { RouterClient } from './router-client.js'
import type { Position } from './token.js'

/** BEGIN and nothing else, behind comments such as those that tracing puts in front. */
const ONLY_BEGIN = /^(?:\s|\/\*(?:[^*]|\*(?!\/))*\*\/|--[^\n]*\n)*(?:begin|start\s+transaction)\b[^;]*;?\s*$/i

/** Where captured positions go, and what is needed to read them. */
export interface PositionSink {
  /** Of the cluster; `undefined` until a server of it has been seen. */
  readonly systemId: bigint | undefined
  readonly layout: WalLayout | undefined
  /** Which position covers a commit of a session that did not change `synchronous_commit`. */
  readonly positions: PositionMode
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
  done: () => void
): void {
  const { positions } = sink
  const mode = positions === 'flushed' && client.asynchronous ? 'inserted' : positions
  askPosition(client, mode, (error, lsn, file) => {
    const failed = error !== undefined
    // In a failed transaction nothing was committed, so there is nothing to know.
    if (failed || lsn !== undefined) {
      const position = failed ? undefined : readPosition(lsn!, file!, sink)
      if (position) {
        session.wrote(position)
        sink.reached(position)
      } else {
        session.lost()
      }
    }
    done()
  })
}

function readPosition(text: string, file: string, sink: PositionSink): Position | undefined {
  const lsn = parseLsn(text)
  if (lsn === undefined || sink.systemId === undefined) return undefined
  return {
    systemId: sink.systemId,
    timeline: Number.parseInt(file.slice(0, 8), 16),
    lsn: endOfRecord(lsn, sink.layout)
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
