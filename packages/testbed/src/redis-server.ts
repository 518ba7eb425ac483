import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Redis } from 'ioredis'
import { createCertificate } from './certificate.js'
import { StateError } from './errors.js'
import { ManagedProcess } from './managed-process.js'
import { freePort, onFreePort } from './ports.js'
import { findProgram } from './programs.js'
import { whenReady } from './readiness.js'
import { temporaryFolder } from './reaper.js'
import { recordCommands } from './redis-monitor.js'
import { connectRedis, redisCommand, redisInfo, withRedis, type RedisAddress } from './redis-client.js'

export interface RedisOptions {
  /** More arguments of `redis-server`, e.g. `['--maxmemory', '10mb']`. */
  args?: readonly string[]
  /** What clients must give, and the URL carries; `false` lets everyone in. Default a password of the testbed. */
  password?: string | false
  /** Listens with TLS only; `ca` of the server is the certificate to trust. */
  tls?: boolean
  /** With a cluster bus. */
  cluster?: boolean
  /** Keeps its data over `restart()` and `kill()`: an append-only file, written before each reply. */
  durable?: boolean
  /** Runs as a Sentinel with this configuration. */
  sentinel?: (port: number, folder: string) => string
}

/** Has characters that a URL must escape, so that a client that forgets to decode it fails here. */
export const defaultPassword = 'redis:p@ss/1'

/** The user and password of a Redis URL, up to the `@`. */
export function credentialsOf(password: string | undefined): string {
  return password === undefined ? '' : `:${encodeURIComponent(password)}@`
}

/** A Redis server of one's own on a loopback port. It keeps its port and its folder over a restart. */
export class RedisServer {
  readonly host = '127.0.0.1'
  #process: ManagedProcess | undefined
  readonly #clients = new Set<Redis>()
  readonly #password: string | undefined

  private constructor(
    readonly port: number,
    private readonly options: RedisOptions,
    private readonly folder: string,
    readonly busPort: number | undefined,
    /** The certificate to trust, where the server speaks TLS. */
    readonly ca: string | undefined
  ) {
    // A Sentinel's configuration has its own.
    const { password = options.sentinel === undefined ? defaultPassword : false } = options
    this.#password = password === false ? undefined : password
  }

  static async start(options: RedisOptions = {}): Promise<RedisServer> {
    return onFreePort('Redis', async (port) => {
      const folder = temporaryFolder('redis')
      const busPort = options.cluster ? await freePort() : undefined
      const ca = options.tls ? await createCertificate(folder) : undefined
      const server = new RedisServer(port, options, folder, busPort, ca)
      try {
        await server.#launch()
      } catch (error) {
        await server.stop()
        throw error
      }
      return server
    })
  }

  get url(): string {
    const { tls } = this.options
    return `${tls ? 'rediss' : 'redis'}://${credentialsOf(this.#password)}${tls ? 'localhost' : this.host}:${this.port}`
  }

  get address(): RedisAddress {
    return {
      host: this.host,
      port: this.port,
      password: this.#password,
      tls: this.ca === undefined ? undefined : { ca: this.ca }
    }
  }

  get pid(): number {
    if (this.#process === undefined) throw new StateError(`Redis on port ${this.port} was never started`)
    return this.#process.pid
  }

  get running(): boolean {
    return this.#process?.running ?? false
  }

  /** SIGKILL: connections reset, what was not on disk is lost. */
  async kill(): Promise<void> {
    await this.#process?.kill()
  }

  /** SIGSTOP: connections stay open and nothing answers. */
  pause(): void {
    this.#process?.pause()
  }

  resume(): void {
    this.#process?.resume()
  }

  /** Starts it again on the same port, after ending it in good order where it still runs. */
  async restart(): Promise<void> {
    await this.#process?.stop()
    await this.#launch()
  }

  /** Ends it and removes its data. */
  async stop(): Promise<void> {
    for (const client of this.#clients) client.disconnect()
    this.#clients.clear()
    // Nothing is worth saving here, so it need not be asked first.
    await this.#process?.kill()
    await rm(this.folder, { recursive: true, force: true })
  }

  /** A client of this server, closed with it. */
  client(): Redis {
    const client = connectRedis(this.address)
    this.#clients.add(client)
    client.once('end', () => this.#clients.delete(client))
    return client
  }

  /** One command over a connection of its own. */
  command(...command: (string | number)[]): Promise<unknown> {
    return redisCommand(this.address, ...command)
  }

  /** The fields of `INFO <section>`. */
  info(section: string): Promise<Record<string, string>> {
    return redisInfo(this.address, section)
  }

  /**
   * Every command that reaches the server while `work` runs, by MONITOR, each as name (upper case) and
   * arguments, without those of the connections' own making (HELLO, AUTH, CLIENT, INFO, PING, …).
   */
  countCommands<T>(work: () => Promise<T> | T): Promise<{ commands: string[][]; result: T }> {
    return recordCommands(this.address, work)
  }

  /** The end of what the server wrote to its log. */
  output(): string {
    return this.#process?.output() ?? ''
  }

  async #launch(): Promise<void> {
    const { path, env } = await findProgram('redis-server')
    const server = await ManagedProcess.start({
      name: `Redis on port ${this.port}`,
      command: path,
      args: await this.#arguments(),
      env: { PATH: process.env['PATH'], TZ: 'UTC', ...env },
      cwd: this.folder
    })
    this.#process = server
    await whenReady(server, () => this.#accepts())
  }

  /** Answers, and from this very process: another server on the port must not be taken for ours. */
  async #accepts(): Promise<boolean> {
    const pid = await withRedis(this.address, async (client) => {
      const match = /process_id:(\d+)/.exec(await client.info('server'))
      return Number(match?.[1])
    })
    return pid === this.pid
  }

  /** On the command line alone, so that no file of the user's or the system's has a say. */
  async #arguments(): Promise<string[]> {
    const { args = [], tls, durable, sentinel } = this.options
    const password = this.#password
    const port = String(this.port)
    const settings: [string, ...string[]][] = [
      ['--bind', this.host],
      ['--dir', this.folder],
      ['--daemonize', 'no'],
      ['--loglevel', 'notice'],
      ...(tls ? this.#tlsSettings() : ([['--port', port]] satisfies [string, string][]))
    ]
    if (sentinel) {
      // Sentinel rewrites its file, so it is written once and kept over a restart.
      const file = join(this.folder, 'sentinel.conf')
      await writeFile(file, sentinel(this.port, this.folder), { flag: 'wx' }).catch(() => undefined)
      return [file, '--sentinel', ...settings.flat(), ...args]
    }
    settings.push(
      ['--save', ''],
      ['--appendonly', durable ? 'yes' : 'no'],
      ['--appendfsync', 'always'],
      // Replicas that lose their primary come back within a second, not a minute.
      ['--repl-diskless-sync-delay', '0'],
      ['--repl-ping-replica-period', '1']
    )
    if (password !== undefined) settings.push(['--requirepass', password], ['--masterauth', password])
    if (this.busPort !== undefined) {
      settings.push(['--cluster-enabled', 'yes'], ['--cluster-port', String(this.busPort)])
    }
    return [...settings.flat(), ...args]
  }

  #tlsSettings(): [string, ...string[]][] {
    return [
      ['--port', '0'],
      ['--tls-port', String(this.port)],
      ['--tls-cert-file', join(this.folder, 'server.crt')],
      ['--tls-key-file', join(this.folder, 'server.key')],
      ['--tls-ca-cert-file', join(this.folder, 'server.crt')],
      ['--tls-auth-clients', 'no'],
      ['--tls-replication', 'yes']
    ]
  }
}

/** Starts one Redis server with defaults that suit tests: no persistence, nothing from a configuration file. */
export function startRedis(options: RedisOptions = {}): Promise<RedisServer> {
  return RedisServer.start(options)
}
