import { PostgresServer, type ServerOptions } from './postgres-server.js'
import { roles } from './postgres-files.js'
import { until } from './until.js'

/** A streaming replica of a primary, with the faults that replicas have. */
export class PostgresReplica extends PostgresServer {
  private constructor(
    port: number,
    options: ServerOptions,
    folder: string,
    private primary: PostgresServer
  ) {
    super(port, options, folder)
  }

  /** @param primary which must not have been started on data other than the template's */
  static async startReplica(primary: PostgresServer, options: ServerOptions): Promise<PostgresReplica> {
    return PostgresServer.begin(
      'a PostgreSQL replica',
      (port, folder) => new PostgresReplica(port, options, folder, primary)
    )
  }

  /** Applies what arrives this many milliseconds after it was committed on the primary; 0 ends it. */
  async setDelay(ms: number): Promise<void> {
    await this.setSetting('recovery_min_apply_delay', ms === 0 ? undefined : `${ms}ms`)
  }

  /** Stops applying; what arrives is kept. */
  async pauseReplay(): Promise<void> {
    await this.admin.query('SELECT pg_wal_replay_pause()')
    // A replica with nothing to apply confirms only with the next record; it will not apply that one.
    await until(() => this.isReplayPaused(), { message: 'the replica pauses replay' })
  }

  /** Also while it has been asked to pause and has nothing to apply. */
  async isReplayPaused(): Promise<boolean> {
    const { rows } = await this.admin.query('SELECT pg_get_wal_replay_pause_state() AS state')
    return rows[0]?.['state'] !== 'not paused'
  }

  async resumeReplay(): Promise<void> {
    await this.admin.query('SELECT pg_wal_replay_resume()')
  }

  /** Makes it a primary of its own; resolves when it accepts writes. */
  async promote(): Promise<void> {
    await this.admin.query('SELECT pg_promote(true, 30)')
    await until(
      async () => (await this.admin.query('SELECT pg_is_in_recovery() AS r')).rows[0]?.['r'] === false,
      {
        message: 'the replica is promoted'
      }
    )
  }

  /** Streams from another server from now on. */
  async follow(primary: PostgresServer): Promise<void> {
    this.primary = primary
    await this.restart()
  }

  /** Waits until everything that the primary has committed up to now can be read here. */
  async waitForCatchUp(timeout = 10_000): Promise<void> {
    const target = await this.primary.position()
    await until(
      async () => {
        const { rows } = await this.admin.query(
          'SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn OR NOT pg_is_in_recovery() AS there',
          [target]
        )
        return rows[0]?.['there']
      },
      { timeout, message: `the replica has replayed ${target}` }
    )
  }

  /** Waits until it is connected to its primary. */
  async waitForStreaming(timeout = 15_000): Promise<void> {
    await until(
      async () =>
        (await this.admin.query("SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'")).rowCount,
      { timeout, message: 'the replica streams from its primary' }
    )
  }

  protected override async prepare(data: string): Promise<void> {
    await super.prepare(data)
    await this.writeFile('standby.signal', '')
  }

  protected override settings(): Record<string, string | number | boolean> {
    const { host, port } = this.primary
    const { name, password } = roles.replicator
    return {
      ...super.settings(),
      primary_conninfo: `host=${host} port=${port} user=${name} password=${password} application_name=replica-${this.port}`
    }
  }
}
