import type { Http2Server, ServerHttp2Session } from 'node:http2'
import { Server as HttpServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Server as TlsServer, type TLSSocket } from 'node:tls'

/** Node keeps the response that a connection owes here; it is what every drain library reads. */
type HttpSocket = Socket & { _httpMessage?: ServerResponse | null } & Partial<Pick<TLSSocket, 'alpnProtocol'>>

interface Seen {
  bytesRead: number
  /** `performance.now()` since when nothing came in and nothing is owed; 0 while busy. */
  idleSince: number
}

/**
 * Knows the open HTTP connections of a server without any work per request: it looks at the sockets only
 * while draining. Sockets that were upgraded (WebSockets) are let go; they belong to their plugin's drain step.
 */
export class Connections {
  private readonly sockets = new Map<HttpSocket, Seen>()
  private readonly upgraded = new Set<Socket>()
  private readonly sessions = new Set<ServerHttp2Session>()
  private timer: NodeJS.Timeout | undefined

  constructor(private readonly server: Server | Http2Server) {
    const onConnection = (socket: HttpSocket): void => {
      // Kept by its session, which knows of the streams on it.
      if (socket.alpnProtocol === 'h2') return
      this.sockets.set(socket, { bytesRead: -1, idleSince: 0 })
      socket.once('close', () => this.sockets.delete(socket))
    }
    if (server instanceof TlsServer) server.on('secureConnection', onConnection)
    // Without TLS an HTTP/2 server speaks nothing else.
    else if (server instanceof HttpServer) server.on('connection', onConnection)
    server.on('session', (session: ServerHttp2Session) => {
      this.sessions.add(session)
      session.once('close', () => this.sessions.delete(session))
    })
  }

  /**
   * To be called once the app's plugins are loaded: lets go of sockets that are upgraded. Without any
   * `upgrade` listener Node serves such requests as ordinary ones, so none may be added then.
   */
  watchUpgrades(): void {
    if (this.server.listenerCount('upgrade') === 0) return
    this.server.prependListener('upgrade', ({ socket }: IncomingMessage) => {
      this.sockets.delete(socket)
      this.upgraded.add(socket)
      socket.once('close', () => this.upgraded.delete(socket))
    })
  }

  /** Open HTTP connections. */
  get open(): number {
    return this.sockets.size + this.sessions.size
  }

  /** Open WebSockets, and whatever else took a connection over by an upgrade. */
  get upgrades(): number {
    return this.upgraded.size
  }

  /** Requests that wait for the end of their response (HTTP/1). */
  get requests(): number {
    let busy = 0
    for (const socket of this.sockets.keys()) if (isBusy(socket)) busy++
    return busy
  }

  /** Makes every response that is under way, and not yet begun, the last one of its connection. */
  retire(): void {
    for (const { _httpMessage: response } of this.sockets.keys()) {
      if (response && !response.headersSent) response.shouldKeepAlive = false
    }
    for (const session of this.sessions) session.close()
  }

  /** From now on closes connections that have been idle for `idle` ms, until `stop`. */
  sweep(idle: number): void {
    clearInterval(this.timer)
    this.timer = setInterval(() => this.pass(idle), Math.max(10, Math.min(50, idle / 2)))
    this.timer.unref()
    this.pass(idle)
  }

  stop(): void {
    clearInterval(this.timer)
  }

  /** Cuts every connection, whatever it is doing. */
  destroy(): void {
    for (const socket of this.upgraded) socket.destroy()
    for (const socket of this.sockets.keys()) socket.destroy()
    for (const session of this.sessions) session.destroy()
  }

  private pass(idle: number): void {
    const now = performance.now()
    for (const [socket, seen] of this.sockets) {
      if (isBusy(socket) || socket.bytesRead !== seen.bytesRead) {
        seen.bytesRead = socket.bytesRead
        seen.idleSince = isBusy(socket) ? 0 : now
      } else if (seen.idleSince === 0) {
        seen.idleSince = now
      } else if (now - seen.idleSince >= idle) {
        socket.destroy()
      }
    }
    for (const session of this.sessions) if (!session.closed) session.close()
  }
}

function isBusy({ _httpMessage: response }: HttpSocket): boolean {
  return response !== undefined && response !== null && !response.writableFinished
}
