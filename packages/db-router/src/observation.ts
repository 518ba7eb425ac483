import { parseLsn, type Lsn, type WalLayout } from './lsn.js'

/** What one look at a server showed, all of it from the same server process. */
export interface Observation {
  readonly recovery: boolean
  /** Whether the connection goes through a transaction pooler. */
  readonly pooled: boolean
  /** When the server process was started, as text; with `systemId` it tells one server from another. */
  readonly identity: string
  readonly systemId: bigint
  readonly timeline: number
  /** Insert position of a primary, replay position of a replica. */
  readonly lsn: Lsn
  /** Seconds since the last transaction a replica replayed was committed. */
  readonly sinceReplay: number | undefined
  readonly layout: WalLayout
}

// A plain role may run all of these. It does not see pg_stat_wal_receiver without pg_read_all_stats; then the
// timeline comes from the control file, which after a promotion follows at the replica's next restartpoint.
const TIMELINE = `(select max(t) from (
    select received_tli from pg_stat_wal_receiver
    union all select timeline_id from pg_control_checkpoint()
    union all select min_recovery_end_timeline from pg_control_recovery()) as seen (t))`

/** The monitor's one query, for either role. */
export function observationQuery(processId: number): string {
  return `select r, pg_backend_pid() = ${processId}, extract(epoch from pg_postmaster_start_time())::text,
  (select system_identifier::text from pg_control_system()),
  case when r then ${TIMELINE}::text else pg_walfile_name(pg_current_wal_insert_lsn()) end,
  case when r then coalesce(pg_last_wal_replay_lsn(), '0/0') else pg_current_wal_insert_lsn() end::text,
  case when r then extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8 end,
  current_setting('wal_block_size'), pg_size_bytes(current_setting('wal_segment_size'))::text
  from (select pg_is_in_recovery() as r) as role /* flotilla: monitor */`
}

export function readObservation(row: readonly unknown[]): Observation {
  const [recovery, direct, identity, systemId, timeline, lsn, sinceReplay, blockSize, segmentSize] = row
  return {
    recovery: recovery === true,
    pooled: direct !== true,
    identity: String(identity),
    // Signed in SQL, unsigned in the control file.
    systemId: BigInt.asUintN(64, BigInt(String(systemId))),
    timeline: recovery === true ? Number(timeline ?? 0) : Number.parseInt(String(timeline).slice(0, 8), 16),
    lsn: parseLsn(lsn) ?? 0n,
    sinceReplay: typeof sinceReplay === 'number' ? sinceReplay : undefined,
    layout: { blockSize: Number(blockSize), segmentSize: Number(segmentSize) }
  }
}
