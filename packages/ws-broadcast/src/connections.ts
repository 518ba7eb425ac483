import type { Connection } from './connection.js'
import { connectChannel, disconnectChannel } from './diagnostics.js'
import { jsonFrame } from './frame.js'
import { CLOSE } from './protocol.js'

/** Whom `disconnect()` means: every property given must match. */
export interface ConnectionFilter {
  /** Every connection of this user. */
  userId?: string
  /** The session's public reference. */
  ref?: string
  /** One connection, by the id its `welcome` frame and presence carry. */
  connection?: string
}

const PING = jsonFrame({ type: 'ping' })

export interface PingSettings {
  readonly interval: number
  readonly timeout: number
}

/** The connections of this instance and their signs of life: one timer for all of them. */
export class Connections {
  readonly #all = new Set<Connection>()
  readonly #timer: NodeJS.Timeout

  constructor(private readonly ping: PingSettings) {
    this.#timer = setInterval(() => this.#tick(), Math.min(1000, ping.interval / 4, ping.timeout / 4))
    this.#timer.unref()
  }

  get size(): number {
    return this.#all.size
  }

  [Symbol.iterator](): IterableIterator<Connection> {
    return this.#all.values()
  }

  add(connection: Connection): void {
    this.#all.add(connection)
    // The first ping at a random moment of the interval, so that those who came together do not stay together.
    connection.nextPing = Math.trunc(performance.now() + this.ping.interval * (0.5 + Math.random() / 2))
    if (connectChannel.active) {
      const { userId } = connection.identity
      connectChannel.publish({
        connection: connection.id,
        ...(userId !== undefined && { userId }),
        transport: connection.transport.kind
      })
    }
  }

  remove(connection: Connection): void {
    if (!this.#all.delete(connection)) return
    disconnectChannel.publish({
      connection: connection.id,
      code: connection.closeCode,
      durationMs: performance.now() - connection.since
    })
  }

  /** @returns how many were closed */
  disconnect(filter: ConnectionFilter, code: number, reason: string): number {
    let closed = 0
    for (const connection of this.#all) {
      const { identity } = connection
      if (filter.userId !== undefined && identity.userId !== filter.userId) continue
      if (filter.ref !== undefined && identity.ref !== filter.ref) continue
      if (filter.connection !== undefined && connection.id !== filter.connection) continue
      connection.close(code, reason)
      closed += 1
    }
    return closed
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #tick(): void {
    const now = Math.trunc(performance.now())
    for (const connection of this.#all) {
      if (connection.pingedAt !== 0) {
        if (connection.heard || readsEvents(connection) || takesAnswers(connection)) connection.pingedAt = 0
        else if (now - connection.pingedAt > this.ping.timeout) {
          // Nobody is there to read a close frame.
          connection.close(CLOSE.SILENT, 'no answer to ping', 0)
          continue
        }
      }
      if (now < connection.nextPing || connection.pingedAt !== 0) continue
      connection.nextPing = now + this.ping.interval
      connection.pingedAt = now
      connection.heard = false
      connection.bufferedAtPing = connection.transport.buffered
      connection.transport.ping()
      // A browser's script never sees the protocol's own ping; by this one it knows that the server is there.
      if (!connection.slow) connection.push(PING)
    }
  }
}

/** A reader of server-sent events cannot answer; that the kernel takes its bytes has to do. */
function readsEvents({ transport }: Connection): boolean {
  return transport.kind === 'sse' && transport.buffered === 0
}

/** Nothing is read from a connection whose commands are held; that its bytes grow fewer has to do. */
function takesAnswers({ held, transport, bufferedAtPing }: Connection): boolean {
  return held && transport.buffered < bufferedAtPing
}
