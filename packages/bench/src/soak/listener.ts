import { connect, type BroadcastClient } from '@flotilla/ws-broadcast/client'
import { WebSocket } from 'ws'
import type { Ledger } from './ledger.js'

interface Entry {
  lane: string
  n: number
}

/** A socket that keeps account: which entries came, in which order, and which came twice. */
export class Listener {
  readonly #client: BroadcastClient
  readonly #received = new Map<string, Set<number>>()
  readonly #newest = new Map<string, number>()
  gaps = 0

  private constructor(url: string, ledger: Ledger, retried: ReadonlySet<string>) {
    this.#client = connect(`${url}/ws`, { WebSocket, reconnect: { min: 100, max: 1_500 } })
    this.#client.on('gap', () => this.gaps++)
    this.#client.on('message', ({ data }) => {
      const { lane, n } = data as Entry
      ledger.count('messages')
      const seen = this.#received.get(lane) ?? new Set()
      this.#received.set(lane, seen)
      // What its writer had to send again may come again: it was not acknowledged the first time.
      if (!retried.has(`${lane}:${n}`)) {
        const newest = this.#newest.get(lane) ?? 0
        ledger.check('doubled', !seen.has(n), `entry ${lane}:${n} came twice`)
        ledger.check('doubled', seen.has(n) || n > newest, `entry ${lane}:${n} came after ${lane}:${newest}`)
        this.#newest.set(lane, Math.max(n, newest))
      }
      seen.add(n)
    })
  }

  static async open(url: string, ledger: Ledger, retried: ReadonlySet<string>): Promise<Listener> {
    const listener = new Listener(url, ledger, retried)
    await listener.#client.subscribe('entries').ready
    return listener
  }

  missing(lane: string, acknowledged: readonly number[]): number[] {
    const seen = this.#received.get(lane)
    return acknowledged.filter((n) => !seen?.has(n))
  }

  close(): void {
    this.#client.close()
  }
}
