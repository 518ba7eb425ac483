import { chmod, copyFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Client } from 'pg'
import { deploymentFile } from './deployment-files.js'
import { StateError } from './errors.js'
import { ManagedProcess } from './managed-process.js'
import { onFreePort } from './ports.js'
import { databaseOwner, databaseUrl, openProgram, roles, type Role } from './postgres-files.js'
import type { PostgresServer } from './postgres-server.js'
import { whenReady } from './readiness.js'
import { temporaryFolder } from './reaper.js'

/** Known to PgBouncer alone; no server has a role of this name. */
const operator: Role = { name: 'bouncer_admin', password: 'console:p@ss/1' }

/** A server, or what leads to one. */
export type PgBouncerTarget = Pick<PostgresServer, 'host' | 'port' | 'database'>

export interface PgBouncerOptions {
  /** The primary, or the primary and its replicas. */
  target: PgBouncerTarget | readonly PgBouncerTarget[]
  /** Settings on top of docker/pgbouncer/pgbouncer.ini, e.g. `{ default_pool_size: 2 }`. */
  settings?: Record<string, string | number>
}

/** PgBouncer in transaction mode, with the pools of docker/pgbouncer/pgbouncer.ini. */
export class PgBouncer {
  readonly host = '127.0.0.1'
  #process: ManagedProcess | undefined

  private constructor(
    readonly port: number,
    private readonly folder: string,
    private readonly targets: readonly PgBouncerTarget[],
    private readonly settings: Record<string, string | number>
  ) {}

  static start({ target, settings = {} }: PgBouncerOptions): Promise<PgBouncer> {
    const targets = 'port' in target ? [target] : target
    return onFreePort('PgBouncer', async (port) => {
      const folder = temporaryFolder('pgbouncer')
      const bouncer = new PgBouncer(port, folder, targets, settings)
      try {
        await bouncer.#launch()
      } catch (error) {
        await bouncer.stop()
        throw error
      }
      return bouncer
    })
  }

  /** The database that leads to the primary, for the app's role. */
  get url(): string {
    return this.#urlOf('app')
  }

  /** The databases that lead to each replica. */
  get replicaUrls(): string[] {
    return this.targets.slice(1).map((_target, index) => this.#urlOf(replicaName(index)))
  }

  /** PgBouncer's own console, which the app's role may not enter. */
  get consoleUrl(): string {
    return this.#urlOf('pgbouncer', operator)
  }

  get pid(): number {
    if (this.#process === undefined) throw new StateError('PgBouncer was never started')
    return this.#process.pid
  }

  async kill(): Promise<void> {
    await this.#process?.kill()
  }

  pause(): void {
    this.#process?.pause()
  }

  resume(): void {
    this.#process?.resume()
  }

  async restart(): Promise<void> {
    await this.#process?.stop()
    await this.#launch()
  }

  async stop(): Promise<void> {
    await this.#process?.kill()
    await rm(this.folder, { recursive: true, force: true })
  }

  /** The end of its log. */
  output(): string {
    return this.#process?.output() ?? ''
  }

  #urlOf(database: string, role: Role = roles.app): string {
    return databaseUrl(role, this.host, this.port, database)
  }

  async #launch(): Promise<void> {
    const { path, env } = await openProgram('pgbouncer')
    await this.#configure()
    const bouncer = await ManagedProcess.start({
      name: `PgBouncer on port ${this.port}`,
      command: path,
      args: [join(this.folder, 'pgbouncer.ini')],
      env: { PATH: process.env['PATH'], ...env },
      cwd: this.folder,
      // Like PostgreSQL it refuses to be root.
      ...databaseOwner()
    })
    this.#process = bouncer
    await whenReady(bouncer, async () => {
      const client = new Client({ connectionString: this.consoleUrl, connectionTimeoutMillis: 1_000 })
      client.on('error', () => {})
      await client.connect()
      await client.end()
      return true
    })
  }

  /** The users' file, and after it what is this start's own: PgBouncer keeps the last of two settings. */
  async #configure(): Promise<void> {
    const base = join(this.folder, 'base.ini')
    await copyFile(await deploymentFile('pgbouncer/pgbouncer.ini'), base)
    await chmod(base, 0o644)
    await writeFile(
      join(this.folder, 'userlist.txt'),
      [roles.app, operator].map(({ name, password }) => `"${name}" "${password}"\n`).join('')
    )
    const databases = this.targets.map(
      ({ host, port, database }, index) =>
        `${index === 0 ? 'app' : replicaName(index - 1)} = host=${host} port=${port} dbname=${database}`
    )
    const settings = {
      listen_addr: this.host,
      listen_port: this.port,
      unix_socket_dir: '',
      auth_file: join(this.folder, 'userlist.txt'),
      admin_users: operator.name,
      ...this.settings
    }
    await writeFile(
      join(this.folder, 'pgbouncer.ini'),
      [
        `%include ${base}`,
        // Still in the included file's section [pgbouncer]: a second heading would reset it to the defaults.
        ...Object.entries(settings).map(([key, value]) => `${key} = ${value}`),
        '[databases]',
        ...databases,
        ''
      ].join('\n')
    )
  }
}

/** Starts PgBouncer in front of a primary and its replicas. */
export function startPgBouncer(options: PgBouncerOptions): Promise<PgBouncer> {
  return PgBouncer.start(options)
}

function replicaName(index: number): string {
  return index === 0 ? 'app_replica' : `app_replica${index + 1}`
}
