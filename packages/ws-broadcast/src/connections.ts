import type { Connection } from './connection.js'
import { connectChannel, disconnectChannel } from './diagnostics.js'
import { jsonFrame } from './frame.js'
import { CLOSE } from './protocol.js'

/** Names connections: every property given must match. */
export interface ConnectionFilter {
  /** Every connection of this user. */
  userId?: string
  /** The session's public reference. */
  ref?: string
  /** One connection, by the id its `welcome` frame and presence carry. */
  connection?: string
}

/** The filter in what an app or another instance says; undefined if it names no connection, or one not by a string. */
export function readFilter(input: unknown): ConnectionFilter | undefined {
  const { userId, ref, connection } = Object(input) as Record<string, unknown>
  const given = Object.entries({ userId, ref, connection }).filter(([, value]) => value !== undefined)
  if (given.length === 0 || given.some(([, value]) => typeof value !== 'string')) return undefined
  return Object.fromEntries(given)
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
  /** Ticks of the timer so far. A client's deadline is counted in them: while the event loop is blocked no answer can be read. */
  #tickCount = 0
  readonly #timeoutTicks: number

  constructor(private readonly ping: PingSettings) {
    const tickMs = Math.min(1000, ping.interval / 4, ping.timeout / 4)
    this.#timeoutTicks = Math.ceil(ping.timeout / tickMs)
    this.#timer = setInterval(() => this.#tick(), tickMs)
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

  /** Those of this instance that match. */
  *matching(filter: ConnectionFilter): Generator<Connection> {
    for (const connection of this.#all) {
      const { identity } = connection
      if (filter.userId !== undefined && identity.userId !== filter.userId) continue
      if (filter.ref !== undefined && identity.ref !== filter.ref) continue
      if (filter.connection !== undefined && connection.id !== filter.connection) continue
      yield connection
    }
  }

  disconnect(filter: ConnectionFilter, code: number, reason: string): void {
    for (const connection of this.matching(filter)) connection.close(code, reason)
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #tick(): void {
    const now = Math.trunc(performance.now())
    this.#tickCount += 1
    for (const connection of this.#all) {
      if (connection.pingedAt !== 0) {
        if (connection.heard || readsEvents(connection) || isPausedAndAlive(connection))
          connection.pingedAt = 0
        else if (this.#tickCount - connection.pingedAt > this.#timeoutTicks) {
          // Nobody is there to read a close frame.
          connection.close(CLOSE.SILENT, 'no answer to ping', 0)
          continue
        }
      }
      if (now < connection.nextPing || connection.pingedAt !== 0) continue
      connection.nextPing = now + this.ping.interval
      connection.pingedAt = this.#tickCount
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

/**
 * Nothing is read from a connection whose socket is paused. If it waits for the app or for its share of bytes, its silence says
 * nothing; if it does not take its answers, fewer bytes that wait are its sign of life.
 */
function isPausedAndAlive({ paused, slow, transport, bufferedAtPing }: Connection): boolean {
  return paused && (!slow || transport.buffered < bufferedAtPing)
}
