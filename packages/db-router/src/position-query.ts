import { Query, type Connection } from 'pg'
import type { RouterClient } from './router-client.js'
import { codeOf } from './sqlstate.js'

/**
 * Which position covers a commit. `flushed`: a commit is answered once it is flushed, and the insert position would count what
 * other sessions have not flushed yet, so that reads wait for nothing of their author's. `inserted`: a commit may have been
 * answered before it was flushed. `unknown`: the server refuses to say.
 */
export type PositionMode = 'flushed' | 'inserted' | 'unknown'

// The file name's first 8 digits are the timeline, from the same moment.
const FILE = 'pg_walfile_name(pg_current_wal_insert_lsn()) /* flotilla: position */'
const TEXTS: Record<PositionMode, string> = {
  flushed:
    `select case current_setting('synchronous_commit') when 'off' then pg_current_wal_insert_lsn() ` +
    `else pg_current_wal_flush_lsn() end::text, ${FILE}`,
  inserted: `select pg_current_wal_insert_lsn()::text, ${FILE}`,
  unknown: "select '', '' /* flotilla: position */"
}
const NAME = 'flotilla_position'

// in_failed_sql_transaction: nothing was committed, so there is nothing to know.
const IN_FAILED_TRANSACTION = '25P02'
// invalid_sql_statement_name: DISCARD or DEALLOCATE took the prepared statement away.
const NO_STATEMENT = '26000'

/** What a connection knows of the prepared statement; `unnamed` where one can not be relied on. */
export type PositionStatement = 'none' | 'sent' | 'prepared' | 'unnamed'

/** The position in the log and the name of its file, or why they are not known; neither in a failed transaction. */
export type PositionCallback = (
  error: Error | undefined,
  lsn: string | undefined,
  file: string | undefined
) => void

/** A message of the frontend protocol ("Message Formats"). */
function message(type: string, ...parts: (string | number)[]): Buffer {
  const body = parts.map((part) => {
    if (typeof part === 'string') return Buffer.from(`${part}\0`)
    const bytes = Buffer.alloc(2)
    bytes.writeInt16BE(part)
    return bytes
  })
  const head = Buffer.alloc(5, type)
  head.writeInt32BE(Buffer.concat(body).length + 4, 1)
  return Buffer.concat([head, ...body])
}

// Parse; Bind with no parameters and a result in text; Execute without limit; Sync. The columns are known: no Describe.
const ask = (name: string): Buffer[] => [
  message('B', '', name, 0, 0, 1, 0),
  message('E', '', 0, 0),
  message('S')
]
const ASK = Buffer.concat(ask(NAME))
const PREPARE_AND_ASK = Buffer.concat([message('P', NAME, TEXTS.flushed, 0), ...ask(NAME)])
const unnamed = (mode: PositionMode): Buffer => Buffer.concat([message('P', '', TEXTS[mode], 0), ...ask('')])
// A transaction pooler may hand the next statement to a server session that never saw the name.
const UNNAMED = { flushed: unnamed('flushed'), inserted: unnamed('inserted'), unknown: unnamed('unknown') }

/** The question for the position as bytes that are ready: it goes along with every write. */
class PositionQuery extends Query {
  readonly #bytes: Buffer
  #fields: (string | null)[] | undefined

  constructor(bytes: Buffer, callback: (error: Error | undefined, fields: PositionQuery['fields']) => void) {
    super('', callback as never)
    this.#bytes = bytes
  }

  get fields(): (string | null)[] | undefined {
    return this.#fields
  }

  override submit = (connection: Connection): void => {
    connection.stream.write(this.#bytes)
  }

  handleDataRow(row: { fields: (string | null)[] }): void {
    this.#fields = row.fields
  }

  handleCommandComplete(): void {}

  handleReadyForQuery(): void {
    ;(this as unknown as { callback: (error: undefined, fields: PositionQuery['fields']) => void }).callback(
      undefined,
      this.#fields
    )
  }
}

/** Asks `client` for the position in the log, behind what has been sent on it. */
export function askPosition(client: RouterClient, mode: PositionMode, callback: PositionCallback): void {
  // Nearly every commit is flushed first, so that question alone is prepared.
  const known = client.pooled || mode !== 'flushed' ? 'unnamed' : client.positionStatement
  if (known === 'none') client.positionStatement = 'sent'
  const bytes = known === 'unnamed' ? UNNAMED[mode] : known === 'none' ? PREPARE_AND_ASK : ASK
  const query = new PositionQuery(bytes, (error, fields) => {
    if (!error) {
      if (known === 'none') client.positionStatement = 'prepared'
      return callback(undefined, fields?.[0] ?? undefined, fields?.[1] ?? undefined)
    }
    const code = codeOf(error)
    if (code === IN_FAILED_TRANSACTION) {
      if (known === 'none') client.positionStatement = 'none'
      return callback(undefined, undefined, undefined)
    }
    // Whether the server has the statement now is not known, unless it just said that it has not.
    if (known !== 'unnamed') client.positionStatement = 'unnamed'
    if (code === NO_STATEMENT && known !== 'unnamed') return askPosition(client, mode, callback)
    callback(error, undefined, undefined)
  })
  client.submit(query)
}
