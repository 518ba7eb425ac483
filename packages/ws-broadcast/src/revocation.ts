import type { FleetBus } from '@flotilla/redis'
import { readFilter, type ConnectionFilter, type Connections } from './connections.js'
import type { Identity } from './identity.js'
import { CLOSE } from './protocol.js'

/** How long a revoked session is remembered, for upgrades that had read it just before. */
const REMEMBERED = 60_000

/** Closes connections on every instance when their session ends or the application says so. */
export class Revocation {
  readonly #revoked = new Map<string, number>()
  readonly #stops: (() => void)[]
  /** The key prefix: another app's users have the same ids. */
  readonly #scope: string

  constructor(
    private readonly bus: FleetBus,
    private readonly connections: Connections,
    scope: string
  ) {
    this.#scope = scope
    this.#stops = [
      bus.subscribe('session.revoked', (payload) => this.#onRevoked(payload)),
      bus.subscribe(
        'ws.disconnect',
        (payload, { from }) => {
          if (from !== bus.instance) this.#onDisconnect(payload)
        },
        { scope }
      )
    ]
  }

  /** Whether this identity's session ended while its upgrade was under way. */
  isRevoked({ ref }: Identity): boolean {
    return ref !== undefined && this.#revoked.has(ref)
  }

  /** Closes on this instance at once and tells the others; rejects when Redis cannot be told. */
  async disconnect(filter: ConnectionFilter, code: number, reason: string): Promise<void> {
    this.connections.disconnect(filter, code, reason)
    await this.bus.publish('ws.disconnect', { ...filter, code, reason }, { scope: this.#scope })
  }

  close(): void {
    for (const stop of this.#stops) stop()
    this.#revoked.clear()
  }

  #onRevoked(payload: unknown): void {
    const { refs, userId } = (payload ?? {}) as { refs?: unknown; userId?: unknown }
    const list = Array.isArray(refs) ? refs.filter((ref): ref is string => typeof ref === 'string') : []
    const now = Date.now()
    for (const [ref, until] of this.#revoked) {
      if (until > now) break
      this.#revoked.delete(ref)
    }
    const set = new Set(list)
    for (const ref of set) this.#revoked.set(ref, now + REMEMBERED)
    for (const connection of this.connections) {
      const { identity } = connection
      const bySession = identity.ref !== undefined && set.has(identity.ref)
      // Without references: all sessions of the user.
      const byUser = list.length === 0 && typeof userId === 'string' && identity.userId === userId
      if (bySession || byUser) connection.close(CLOSE.UNAUTHORIZED, 'session ended')
    }
  }

  #onDisconnect(payload: unknown): void {
    const { code, reason } = Object(payload) as Record<string, unknown>
    const filter = readFilter(payload)
    if (!filter) return
    this.connections.disconnect(
      filter,
      isCloseCode(code) ? code : CLOSE.DISCONNECTED,
      typeof reason === 'string' ? reason : 'disconnected'
    )
  }
}

/** Codes an application may close with (RFC 6455 §7.4.2). */
export function isCloseCode(code: unknown): code is number {
  return code === 1000 || (Number.isInteger(code) && (code as number) >= 3000 && (code as number) <= 4999)
}
