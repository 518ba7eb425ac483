import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { once } from 'node:events'
import { onFreePort, PortTakenError } from './ports.js'

interface Pair {
  client: Socket
  upstream: Socket
}

/**
 * A TCP proxy in this process whose connections can be made to fail in the ways that networks fail. It knows
 * nothing of what passes through.
 */
export class TcpProxy {
  readonly host = '127.0.0.1'
  readonly #pairs = new Set<Pair>()
  #target: { host: string; port: number }
  #server: Server
  #delay = 0
  #blackhole = false
  #refusing = false
  #swallowing = false

  private constructor(
    readonly port: number,
    target: { host: string; port: number },
    server: Server
  ) {
    this.#target = target
    this.#server = server
  }

  static start(target: { host: string; port: number }): Promise<TcpProxy> {
    return onFreePort('a proxy', async (port) => {
      const server = createServer({ pauseOnConnect: false, allowHalfOpen: true })
      const proxy = new TcpProxy(port, target, server)
      server.on('connection', (client) => proxy.#connect(client))
      await proxy.#listen()
      return proxy
    })
  }

  /** `host:port`, to be put behind a scheme. */
  get address(): string {
    return `${this.host}:${this.port}`
  }

  /** The URL of a server, leading through this proxy. */
  through(url: string): string {
    const changed = new URL(url)
    changed.hostname = this.host
    changed.port = String(this.port)
    return changed.href.replace(/\/$/, url.endsWith('/') ? '/' : '')
  }

  /** Open connections. */
  get connections(): number {
    return this.#pairs.size
  }

  /** Whether it refuses connections. */
  get refusing(): boolean {
    return this.#refusing
  }

  /** Leads new connections to another server, as an address that moves does; open ones stay where they are. */
  redirect({ host, port }: { host: string; port: number }): void {
    this.#target = { host, port }
  }

  /** Where new connections lead. */
  get target(): { readonly host: string; readonly port: number } {
    return this.#target
  }

  /** Resets every open connection; new ones work. */
  cut(): void {
    for (const { client, upstream } of this.#pairs) {
      reset(client)
      reset(upstream)
    }
    this.#pairs.clear()
  }

  /** Resets every open connection and refuses new ones until `restore()`. */
  async refuse(): Promise<void> {
    if (this.#refusing) return
    this.#refusing = true
    const closed = once(this.#server, 'close')
    this.#server.close()
    this.cut()
    await closed
  }

  /** Holds every byte back for this long, in both directions and in order; 0 ends it. */
  delay(ms: number): void {
    this.#delay = ms
  }

  /**
   * Half-open from now on: connections stay established, and nothing passes in either direction, as when a
   * cable is cut. New connections are accepted and stay silent as well.
   */
  blackhole(): void {
    this.#blackhole = true
    for (const { client, upstream } of this.#pairs) {
      client.pause()
      upstream.pause()
    }
  }

  /**
   * Requests arrive, and what is answered from now on is lost, until `restore()`. A connection that lost bytes is of no
   * use after that: `cut()` before.
   */
  loseReplies(): void {
    this.#swallowing = true
  }

  /** Ends every fault. What a blackhole held back is delivered, as TCP would after the cable is mended. */
  async restore(): Promise<void> {
    this.#delay = 0
    this.#blackhole = false
    this.#swallowing = false
    for (const { client, upstream } of this.#pairs) {
      client.resume()
      upstream.resume()
    }
    if (this.#refusing) {
      this.#refusing = false
      await this.#listen()
    }
  }

  async stop(): Promise<void> {
    this.cut()
    if (!this.#server.listening) return
    const closed = once(this.#server, 'close')
    this.#server.close()
    await closed
  }

  async #listen(): Promise<void> {
    try {
      this.#server.listen(this.port, this.host)
      await once(this.#server, 'listening')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') throw new PortTakenError()
      throw error
    }
    // Forgotten proxies keep no process alive.
    this.#server.unref()
  }

  #connect(client: Socket): void {
    const upstream = createConnection({ ...this.#target, allowHalfOpen: true })
    const pair = { client, upstream }
    this.#pairs.add(pair)
    for (const [from, to] of [
      [client, upstream],
      [upstream, client]
    ] as const) {
      from.setNoDelay(true)
      from.on('data', (chunk) => {
        if (this.#swallowing && from === upstream) return
        this.#later(() => to.writable && to.write(chunk))
      })
      from.on('end', () => this.#later(() => to.end()))
      from.on('error', () => reset(to))
      from.on('close', () => {
        this.#pairs.delete(pair)
        this.#later(() => to.destroy())
      })
    }
    if (this.#blackhole) {
      client.pause()
      upstream.pause()
    }
  }

  /** Timers of the same length fire in the order in which they were set, so bytes stay in order. */
  #later(action: () => void): void {
    if (this.#delay === 0) action()
    else setTimeout(action, this.#delay).unref()
  }
}

/** Sends RST, except after FIN: libuv refuses the two together, and the socket would stay open for ever. */
function reset(socket: Socket): void {
  if (socket.writableEnded) socket.destroy()
  else socket.resetAndDestroy()
}

/** Starts a proxy in front of a server: `startProxy(redis)`. */
export function startProxy(target: { host: string; port: number }): Promise<TcpProxy> {
  return TcpProxy.start({ host: target.host, port: target.port })
}
