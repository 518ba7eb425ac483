/** A position in PostgreSQL's write-ahead log, in bytes. */
export type Lsn = bigint

/** How the cluster's WAL is cut into pages and files; fixed at initdb and compile time. */
export interface WalLayout {
  /** Bytes, a power of two. */
  readonly blockSize: number
  /** Bytes, a power of two up to 1 GB. */
  readonly segmentSize: number
}

// Sizes of XLogPageHeaderData and XLogLongPageHeaderData (src/include/access/xlog_internal.h), aligned to 8.
const PAGE_HEADER = 24
const FIRST_PAGE_HEADER = 40

const LSN = /^[0-9a-f]{1,8}\/[0-9a-f]{1,8}$/i

/** `'16/B374D848'` as a number, or `undefined` for what is not an LSN. */
export function parseLsn(text: unknown): Lsn | undefined {
  if (typeof text !== 'string' || !LSN.test(text)) return undefined
  const slash = text.indexOf('/')
  const high = Number.parseInt(text.slice(0, slash), 16)
  const low = Number.parseInt(text.slice(slash + 1), 16)
  // One conversion where a double holds it, which is up to 8 PB of log.
  return high < 2 ** 21 ? BigInt(high * 2 ** 32 + low) : (BigInt(high) << 32n) | BigInt(low)
}

export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffffffffn).toString(16).toUpperCase()}`
}

/**
 * The end of the last record for an insert position. At a page start the server already counts the header
 * of the page it has yet to write. Then `pg_current_wal_insert_lsn()` stands 24 bytes (40 on the first page
 * of a file) past what any replica reports until another record follows. A read would wait for nothing.
 * No record can end there, so taking the header away is exact.
 */
export function endOfRecord(insert: Lsn, layout: WalLayout | undefined): Lsn {
  if (!layout) return insert
  // Pages and files are aligned, so the low half is the place in them.
  const low = Number(BigInt.asUintN(32, insert))
  const inFile = low % layout.segmentSize
  if (inFile === FIRST_PAGE_HEADER) return insert - BigInt(FIRST_PAGE_HEADER)
  return inFile % layout.blockSize === PAGE_HEADER && inFile !== PAGE_HEADER
    ? insert - BigInt(PAGE_HEADER)
    : insert
}
