/** A position in PostgreSQL's write-ahead log, in bytes. */
export type Lsn = bigint

/** How the cluster's WAL is cut into pages and files; fixed at initdb and compile time. */
export interface WalLayout {
  readonly blockSize: bigint
  readonly segmentSize: bigint
}

// Sizes of XLogPageHeaderData and XLogLongPageHeaderData (src/include/access/xlog_internal.h), aligned to 8.
const PAGE_HEADER = 24n
const FIRST_PAGE_HEADER = 40n

/** `'16/B374D848'` as a number, or `undefined` for what is not an LSN. */
export function parseLsn(text: unknown): Lsn | undefined {
  if (typeof text !== 'string') return undefined
  const match = /^([0-9a-f]{1,8})\/([0-9a-f]{1,8})$/i.exec(text)
  return match ? (BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`) : undefined
}

export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffffffffn).toString(16).toUpperCase()}`
}

/**
 * The end of the last record for an insert position. At a page start the server already counts the header
 * of the page it has yet to write, so `pg_current_wal_insert_lsn()` stands 24 bytes (40 on the first page
 * of a file) past what any replica reports until another record follows: a read would wait for nothing.
 * No record can end there, so taking the header away is exact.
 */
export function endOfRecord(insert: Lsn, layout: WalLayout | undefined): Lsn {
  if (!layout) return insert
  if (insert % layout.segmentSize === FIRST_PAGE_HEADER) return insert - FIRST_PAGE_HEADER
  const inPage = insert % layout.blockSize
  return inPage === PAGE_HEADER && insert % layout.segmentSize !== PAGE_HEADER ? insert - PAGE_HEADER : insert
}
