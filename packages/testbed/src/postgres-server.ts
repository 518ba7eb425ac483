import { chown, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Client, escapeIdentifier, escapeLiteral, type QueryResult, type QueryResultRow } from 'pg'
import { StateError } from './errors.js'
import { ManagedProcess } from './managed-process.js'
import {
  copyDataFolder,
  databaseEnvironment,
  databaseOwner,
  databaseUrl,
  dataFolderTemplate,
  openProgram,
  removeSharedMemory,
  roles
} from './postgres-files.js'
import { onFreePort } from './ports.js'
import { whenReady } from './readiness.js'
import { temporaryFolder } from './reaper.js'
import { until } from './until.js'

export interface ServerOptions {
  /** Settings of postgresql.conf on top of the testbed's own, e.g. `{ max_connections: 20 }`. */
  settings?: Record<string, string | number | boolean>
  database?: string
  /** Servers of two names are of two clusters, as their system identifiers tell; all others are of one. */
  cluster?: string
}

/** What the superuser's role is for. */
export interface Administration {
  readonly url: string
  /** One statement over a connection of its own. */
  query<Row extends QueryResultRow = QueryResultRow>(
    sql: string,
    params?: unknown[]
  ): Promise<QueryResult<Row>>
}

/**
 * Fast rather than crash-proof: a test's data need not survive the machine, only the process, and what a
 * process has written the kernel keeps.
 */
const baseSettings: Record<string, string | number | boolean> = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  fsync: false,
  full_page_writes: false,
  shared_buffers: '32MB',
  max_connections: 100,
  wal_level: 'replica',
  max_wal_senders: 12,
  max_replication_slots: 12,
  // Replicas follow without slots, also after being away for a while.
  wal_keep_size: '256MB',
  hot_standby: true,
  // A replica that lost its primary looks for it five times a second.
  wal_retrieve_retry_interval: '200ms',
  wal_receiver_status_interval: '1s',
  wal_receiver_timeout: '5s',
  wal_sender_timeout: '5s',
  max_standby_streaming_delay: '2s',
  // Below the data folder and not in /dev/shm, so that it goes with the folder.
  dynamic_shared_memory_type: 'mmap',
  jit: false,
  autovacuum_naptime: '60s',
  max_parallel_workers: 2,
  log_min_messages: 'warning'
}

/** A PostgreSQL server of one's own on a loopback port. It keeps its port and its data over a restart. */
export class PostgresServer {
  readonly host = '127.0.0.1'
  readonly database: string
  #process: ManagedProcess | undefined
  readonly #data: string

  protected constructor(
    readonly port: number,
    protected readonly options: ServerOptions,
    private readonly folder: string
  ) {
    this.database = options.database ?? 'app'
    this.#data = join(folder, 'data')
  }

  static async startPrimary(options: ServerOptions): Promise<PostgresServer> {
    return PostgresServer.begin('PostgreSQL', (port, folder) => new PostgresServer(port, options, folder))
  }

  protected static begin<S extends PostgresServer>(
    what: string,
    create: (port: number, folder: string) => S
  ): Promise<S> {
    return onFreePort(what, async (port) => {
      const server = create(port, temporaryFolder('postgres'))
      try {
        await server.prepare(server.#data)
        await server.launch()
      } catch (error) {
        await server.stop()
        throw error
      }
      return server
    })
  }

  /** With the role and password of the app, which owns the database and has no other right. */
  get url(): string {
    return databaseUrl(roles.app, this.host, this.port, this.database)
  }

  /** As the superuser, for what an app may not do: CHECKPOINT, roles, the statistics of other sessions. */
  get admin(): Administration {
    const url = databaseUrl(roles.admin, this.host, this.port, this.database)
    return { url, query: (sql, params) => queryOnce(url, sql, params) }
  }

  get pid(): number {
    if (this.#process === undefined) throw new StateError(`PostgreSQL on port ${this.port} was never started`)
    return this.#process.pid
  }

  get running(): boolean {
    return this.#process?.running ?? false
  }

  /** SIGKILL to the server and its backends. */
  async kill(): Promise<void> {
    await this.#process?.kill()
  }

  /** SIGSTOP to the server and its backends: connections stay open and nothing answers. */
  pause(): void {
    this.#process?.pause()
  }

  resume(): void {
    this.#process?.resume()
  }

  /** Starts it again on the same port with its data, after ending it fast (SIGINT) where it still runs. */
  async restart(): Promise<void> {
    await this.#process?.stop('SIGINT')
    await removeSharedMemory(this.#data)
    await rm(join(this.#data, 'postmaster.pid'), { force: true })
    await this.launch()
  }

  /** Ends it in good order, terminating its sessions, and keeps its data for a `restart()`. */
  async shutdown(): Promise<void> {
    await this.#process?.stop('SIGINT')
  }

  /** Ends it and removes its data. */
  async stop(): Promise<void> {
    await this.#process?.stop('SIGQUIT')
    await removeSharedMemory(this.#data)
    await rm(this.folder, { recursive: true, force: true })
  }

  /** One statement as the app's role, over a connection of its own. */
  query<Row extends QueryResultRow = QueryResultRow>(
    sql: string,
    params?: unknown[]
  ): Promise<QueryResult<Row>> {
    return queryOnce<Row>(this.url, sql, params)
  }

  /** Terminates every client session, as an administrator or a failover would. */
  async terminateConnections(): Promise<number> {
    const { rowCount } = await this.admin.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`
    )
    return rowCount ?? 0
  }

  /** The position that the server has written (primary) or replayed (replica). */
  async position(): Promise<string> {
    const { rows } = await this.admin.query<{ lsn: string }>(
      'SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text AS lsn'
    )
    return String(rows[0]?.lsn)
  }

  /** Changes a setting while it runs; `undefined` takes it back. */
  async setSetting(name: string, value: string | number | boolean | undefined): Promise<void> {
    const text = value === undefined ? 'DEFAULT' : escapeLiteral(String(value))
    const { admin } = this
    const { rows } = await admin.query('SELECT clock_timestamp() AS now')
    await admin.query(`ALTER SYSTEM SET ${escapeIdentifier(name)} = ${text}`)
    await admin.query('SELECT pg_reload_conf()')
    await until(
      async () =>
        (await admin.query('SELECT pg_conf_load_time() > $1 AS loaded', [rows[0]?.['now']])).rows[0]?.[
          'loaded'
        ],
      { message: `PostgreSQL has read ${name}` }
    )
  }

  /** The end of the server's log. */
  output(): string {
    return this.#process?.output() ?? ''
  }

  protected async prepare(data: string): Promise<void> {
    await copyDataFolder(await dataFolderTemplate(this.options.cluster), data)
  }

  protected settings(): Record<string, string | number | boolean> {
    return { ...baseSettings, ...this.options.settings }
  }

  protected async writeFile(name: string, text: string): Promise<void> {
    const file = join(this.#data, name)
    await writeFile(file, text, { mode: 0o600 })
    const { uid, gid } = databaseOwner()
    if (uid !== undefined && gid !== undefined) await chown(file, uid, gid)
  }

  protected async launch(): Promise<void> {
    const program = await openProgram('postgres')
    const server = await ManagedProcess.start({
      name: `PostgreSQL on port ${this.port}`,
      command: program.path,
      args: [
        '-D',
        this.#data,
        '-p',
        String(this.port),
        ...Object.entries(this.settings()).flatMap(([key, value]) => [
          '-c',
          `${key}=${typeof value === 'boolean' ? (value ? 'on' : 'off') : value}`
        ])
      ],
      env: databaseEnvironment(program),
      cwd: this.#data,
      ending: 'soft',
      ...databaseOwner()
    })
    this.#process = server
    await whenReady(server, async () => {
      await this.#ensureDatabase()
      return true
    })
  }

  async #ensureDatabase(): Promise<void> {
    const url = databaseUrl(roles.admin, this.host, this.port, 'postgres')
    const client = new Client({ connectionString: url, connectionTimeoutMillis: 2_000 })
    client.on('error', () => {})
    await client.connect()
    try {
      const { rows } = await client.query(
        'SELECT pg_is_in_recovery() AS replica, EXISTS (SELECT FROM pg_database WHERE datname = $1) AS known',
        [this.database]
      )
      if (!rows[0].known && !rows[0].replica) {
        await client.query(`CREATE DATABASE ${escapeIdentifier(this.database)} OWNER ${roles.app.name}`)
      }
    } finally {
      await client.end().catch(() => undefined)
    }
  }
}

async function queryOnce<Row extends QueryResultRow>(
  connectionString: string,
  sql: string,
  params?: unknown[]
): Promise<QueryResult<Row>> {
  const client = new Client({ connectionString, connectionTimeoutMillis: 5_000 })
  // A server that goes away is reported by the query.
  client.on('error', () => {})
  await client.connect()
  try {
    return await client.query<Row>(sql, params)
  } finally {
    await client.end().catch(() => undefined)
  }
}
