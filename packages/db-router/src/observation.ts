import { parseLsn, type Lsn, type WalLayout } from './lsn.js'

/** What one look at a server showed, all of it from the same server process. */
export interface Observation {
  readonly recovery: boolean
  /** Whether the connection goes through a transaction pooler. */
  readonly pooled: boolean
  /** When the server process was started, as text; with `systemId` it distinguishes servers. Empty if the server refuses to say. */
  readonly identity: string
  /** `undefined` if the server refuses to say. */
  readonly systemId: bigint | undefined
  /** 0 if the server refuses to say. */
  readonly timeline: number
  /** Flush position of a primary, replay position of a replica; `undefined` if the server refuses to say. */
  readonly lsn: Lsn | undefined
  /** Seconds since the last transaction a replica replayed was committed. */
  readonly sinceReplay: number | undefined
  readonly layout: WalLayout
  /** Whether a function of the database sets `synchronous_commit`, so that a commit may be answered before it is flushed. */
  readonly asynchronous: boolean
}

/** Something that a look asks for, and that a server may refuse. */
interface Part {
  /** The function or view, as it is granted. */
  readonly name: string
  readonly sql: string
  /** What stands for it if the server refuses. */
  readonly otherwise: string
  /** What works no longer then, for the log. */
  readonly lost: string
}

const part = (name: string, sql: string, otherwise: string, lost: string): Part => ({
  name,
  sql,
  otherwise,
  lost
})

const AFTER_WRITES = 'reads that must see a write go to the primary'

/**
 * A plain role of an ordinary server may run all of these. Managed and shared-storage services refuse some of them, by privilege or
 * by an error: each one takes with it what depends on it, and nothing else.
 */
const PARTS = {
  start: part(
    'pg_postmaster_start_time',
    'extract(epoch from pg_postmaster_start_time())::text',
    "''",
    `servers behind one address can not be distinguished, so ${AFTER_WRITES}`
  ),
  system: part(
    'pg_control_system',
    '(select system_identifier::text from pg_control_system())',
    'null',
    'a server of another cluster is not recognised'
  ),
  // Without pg_read_all_stats it shows nothing; then the timeline comes from the control file, which after a promotion
  // follows at the replica's next restartpoint.
  receiver: part(
    'pg_stat_wal_receiver',
    '(select received_tli from pg_stat_wal_receiver)',
    'null',
    'after a promotion a replica is known to follow it later'
  ),
  checkpoint: part(
    'pg_control_checkpoint',
    '(select timeline_id from pg_control_checkpoint())',
    'null',
    'a timeline may be known later'
  ),
  recovered: part(
    'pg_control_recovery',
    '(select min_recovery_end_timeline from pg_control_recovery())',
    'null',
    'a timeline may be known later'
  ),
  // PostgreSQL checks the privilege for both branches, and runs only one.
  file: part(
    'pg_walfile_name, pg_current_wal_insert_lsn',
    'case when not r then pg_walfile_name(pg_current_wal_insert_lsn()) end',
    'null',
    `the position of a write is not known: ${AFTER_WRITES}, for \`tokenTtl\``
  ),
  flushed: part(
    'pg_current_wal_flush_lsn',
    'case when not r then pg_current_wal_flush_lsn() end::text',
    'null',
    `the position of a write is not known: ${AFTER_WRITES}, for \`tokenTtl\``
  ),
  replayed: part(
    'pg_last_wal_replay_lsn',
    "case when r then coalesce(pg_last_wal_replay_lsn(), '0/0') end::text",
    'null',
    `how far a replica is can not be known: ${AFTER_WRITES}, and none is left for its lag`
  ),
  sinceReplay: part(
    'pg_last_xact_replay_timestamp',
    'case when r then extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8 end',
    'null',
    'the lag of a replica that was behind at the start may be known later'
  ),
  asynchronous: part(
    'pg_proc',
    `exists (select from pg_proc join pg_language on pg_language.oid = prolang
      where lanname not in ('internal', 'c') and prosrc ~* 'synchronous_commit')`,
    'true',
    'more reads that must see a write go to the primary'
  )
} satisfies Record<string, Part>

/** The name of a {@link Part}. */
export type PartName = keyof typeof PARTS

const NAMES = Object.keys(PARTS) as PartName[]

/** What a server refused to say, and what works no longer for it. */
export const describePart = (name: PartName): { name: string; lost: string } => PARTS[name]

export const partNames: readonly PartName[] = NAMES

/** One part alone, to learn whether the server refuses it. */
export function partQuery(name: PartName): string {
  return `select ${PARTS[name].sql} from (select pg_is_in_recovery() as r) as role /* flotilla: monitor */`
}

/**
 * The monitor's one query, for either role.
 *
 * @param asynchronous what an earlier look on the connection showed: that part costs more than the others together
 */
export function observationQuery(
  processId: number,
  refused: ReadonlySet<PartName>,
  asynchronous: boolean | undefined
): string {
  const columns = NAMES.map((name) => {
    if (name === 'asynchronous' && asynchronous !== undefined) return String(asynchronous)
    return refused.has(name) ? PARTS[name].otherwise : PARTS[name].sql
  })
  return `select r, pg_backend_pid() = ${processId}, current_setting('wal_block_size'), pg_size_bytes(current_setting('wal_segment_size'))::text,
  ${columns.join(',\n  ')}
  from (select pg_is_in_recovery() as r) as role /* flotilla: monitor */`
}

export function readObservation(row: readonly unknown[]): Observation {
  const [recovery, direct, blockSize, segmentSize, ...values] = row
  const [start, system, receiver, checkpoint, recovered, file, flushed, replayed, sinceReplay, asynchronous] =
    values
  const timelines = [receiver, checkpoint, recovered].map((one) => Number(one ?? 0))
  return {
    recovery: recovery === true,
    pooled: direct !== true,
    identity: String(start),
    // Signed in SQL, unsigned in the control file.
    systemId: typeof system === 'string' ? BigInt.asUintN(64, BigInt(system)) : undefined,
    timeline: typeof file === 'string' ? Number.parseInt(file.slice(0, 8), 16) : Math.max(...timelines),
    lsn: parseLsn(recovery === true ? replayed : flushed),
    sinceReplay: typeof sinceReplay === 'number' ? sinceReplay : undefined,
    layout: { blockSize: Number(blockSize), segmentSize: Number(segmentSize) },
    asynchronous: asynchronous !== false
  }
}
