import { existsSync, mkdirSync } from 'node:fs'
import { rename, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { delimiter, dirname, join } from 'node:path'
import { deploymentFile } from './deployment-files.js'
import { StateError } from './errors.js'
import { ManagedProcess, type ProcessOptions } from './managed-process.js'
import { onFreePort, PortTakenError } from './ports.js'
import { findProgram } from './programs.js'
import { whenReady } from './readiness.js'
import { temporaryFolder } from './reaper.js'

/** What a balancer sends requests to: an app instance, or any address. */
export interface BalancedServer {
  host: string
  port: number
  /** HAProxy's agent-check port of the instance, where it has one. */
  agentPort?: number
}

export interface BalancerOptions {
  servers: readonly BalancedServer[]
  /** A fixed port; default a free one. */
  port?: number
}

/** Either balancer: how its servers are told to it and how its process is started. */
interface Kind {
  name: string
  write(folder: string, servers: readonly BalancedServer[]): Promise<void>
  command(
    folder: string,
    host: string,
    port: number
  ): Promise<Pick<ProcessOptions, 'command' | 'args' | 'env'>>
  /** Whether it has bound its port. */
  listens(folder: string, output: string): boolean
  reload(process: ManagedProcess): void
  stopSignal: NodeJS.Signals
}

/** nginx or HAProxy on a loopback port, driven by the files in docker/. */
export class Balancer {
  readonly host = '127.0.0.1'
  #process: ManagedProcess | undefined

  private constructor(
    readonly port: number,
    private readonly kind: Kind,
    private readonly folder: string,
    private servers: readonly BalancedServer[]
  ) {}

  static async start(kind: Kind, { servers, port }: BalancerOptions): Promise<Balancer> {
    const start = async (at: number): Promise<Balancer> => {
      const balancer = new Balancer(at, kind, temporaryFolder(kind.name.toLowerCase()), servers)
      try {
        await balancer.#launch()
      } catch (error) {
        await balancer.stop()
        throw error
      }
      return balancer
    }
    if (port === undefined) return onFreePort(kind.name, start)
    return start(port).catch((error: unknown) => {
      if (!(error instanceof PortTakenError)) throw error
      throw new StateError(`port ${port} is in use: give ${kind.name} another one`)
    })
  }

  get url(): string {
    return `http://${this.host}:${this.port}`
  }

  get pid(): number {
    if (this.#process === undefined) throw new StateError(`${this.kind.name} was never started`)
    return this.#process.pid
  }

  /** Balances over these from now on, without ending connections to those that stay. */
  async setServers(servers: readonly BalancedServer[]): Promise<void> {
    this.servers = servers
    await this.kind.write(this.folder, servers)
    if (this.#process) this.kind.reload(this.#process)
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
    await this.#process?.stop(this.kind.stopSignal)
    await rm(join(this.folder, 'run', 'nginx.pid'), { force: true })
    await this.#launch()
  }

  async stop(): Promise<void> {
    await this.#process?.kill()
    await rm(this.folder, { recursive: true, force: true })
  }

  /** The end of what it wrote. */
  output(): string {
    return this.#process?.output() ?? ''
  }

  async #launch(): Promise<void> {
    await this.kind.write(this.folder, this.servers)
    const started = await ManagedProcess.start({
      name: this.kind.name,
      cwd: this.folder,
      ...(await this.kind.command(this.folder, this.host, this.port))
    })
    this.#process = started
    // An open port alone may be somebody else's.
    await whenReady(
      started,
      async () => this.kind.listens(this.folder, started.output()) && (await accepts(this.host, this.port))
    )
  }
}

const nginx: Kind = {
  name: 'nginx',
  stopSignal: 'SIGTERM',
  async write(folder, servers) {
    await replaceFile(join(folder, 'servers'), servers.map(({ host, port }) => `${host}:${port}\n`).join(''))
  },
  async command(folder, host, port) {
    const { path, env } = await findProgram('nginx')
    const script = await deploymentFile('nginx/run.sh')
    mkdirSync(join(folder, 'run'), { recursive: true })
    return {
      command: '/bin/sh',
      args: [script],
      env: {
        PATH: [dirname(path), process.env['PATH']].join(delimiter),
        NGINX_DIR: join(folder, 'run'),
        CONF_DIR: dirname(script),
        SERVERS_FILE: join(folder, 'servers'),
        LISTEN: `${host}:${port}`,
        CHECK_INTERVAL: '0.5',
        ...env
      }
    }
  },
  // Written once its sockets are open.
  listens: (folder) => existsSync(join(folder, 'run', 'nginx.pid')),
  // run.sh looks at the list by itself.
  reload: () => {}
}

const haproxy: Kind = {
  name: 'HAProxy',
  stopSignal: 'SIGTERM',
  async write(folder, servers) {
    const lines = servers.map(({ host, port, agentPort }, index) => {
      const agent = agentPort === undefined ? '' : ` agent-check agent-port ${agentPort} agent-inter 1s`
      return `    server app${index + 1} ${host}:${port}${agent}\n`
    })
    await replaceFile(join(folder, 'servers.cfg'), `backend app_servers from instances\n${lines.join('')}`)
  },
  async command(folder, host, port) {
    const { path, env } = await findProgram('haproxy')
    return {
      command: path,
      args: [
        '-W',
        '-db',
        '-f',
        await deploymentFile('haproxy/haproxy.cfg'),
        '-f',
        join(folder, 'servers.cfg')
      ],
      env: { PATH: process.env['PATH'], HAPROXY_LISTEN: `${host}:${port}`, ...env }
    }
  },
  listens: (_folder, output) => output.includes('Loading success'),
  reload: (process) => process.signal('SIGUSR2')
}

/** Starts nginx over servers: least_conn, WebSockets, retries of safe requests, draining instances left out. */
export function startNginx(options: BalancerOptions): Promise<Balancer> {
  return Balancer.start(nginx, options)
}

/** Starts HAProxy over servers, which must answer its check, GET /health/ready. */
export function startHAProxy(options: BalancerOptions): Promise<Balancer> {
  return Balancer.start(haproxy, options)
}

async function replaceFile(file: string, text: string): Promise<void> {
  await writeFile(`${file}.new`, text)
  await rename(`${file}.new`, file)
}

function accepts(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port }, () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}
