import { connect, type BroadcastClient } from '@flotilla/ws-broadcast/client'
import { until } from '@flotilla/testbed'
import { WebSocket } from 'ws'
import { Broken } from './assert.js'

const CHANNEL = 'guest-book'

/** Someone who only listens, with the client that browsers use, and keeps account of what came. */
export class Listener {
  readonly #client: BroadcastClient
  /** Ids of the entries in the order in which they came. */
  readonly received: string[] = []
  readonly #seen = new Set<string>()
  readonly doubled: string[] = []
  readonly gaps: string[] = []
  /** The token that the last message carried. */
  token: string | undefined
  #opened = 0
  #refused = false

  private constructor(url: string, cookie: string) {
    // A browser sends its cookies by itself; here they must be put on the upgrade request.
    class WithCookie extends WebSocket {
      constructor(target: string) {
        super(target, { headers: cookie === '' ? {} : { cookie } })
      }
    }
    this.#client = connect(`${url}/ws`, { WebSocket: WithCookie, reconnect: { min: 100, max: 1_000 } })
    this.#client.on('state', ({ state, code }) => {
      if (state === 'open') this.#opened++
      if (state === 'closed' && code === 4401) this.#refused = true
    })
    this.#client.on('gap', ({ reason }) => this.gaps.push(reason))
  }

  /** Resolves when the server has confirmed the subscription: nothing published from then on may be missed. */
  static async open(url: string, cookie = ''): Promise<Listener> {
    const listener = new Listener(url, cookie)
    const { ready } = listener.#client.subscribe<{ id: string }>(CHANNEL, ({ data, token }) => {
      const { id } = data
      if (listener.#seen.has(id)) listener.doubled.push(id)
      listener.#seen.add(id)
      listener.received.push(id)
      listener.token = token
    })
    await ready
    return listener
  }

  /** How often the connection came back. */
  get resumed(): number {
    return Math.max(0, this.#opened - 1)
  }

  /** The server has said that this session is no longer good. */
  get refused(): boolean {
    return this.#refused
  }

  /** Resolves when every one of `ids` came, once; throws for what was lost, doubled or declared missing. */
  async waitFor(ids: readonly string[], timeout = 8_000): Promise<void> {
    const missing = (): string[] => ids.filter((id) => !this.#seen.has(id))
    await until(() => missing().length === 0, { timeout, message: 'every message came' }).catch(() => {
      const lost = missing()
      throw new Broken(
        `${lost.length} of ${ids.length} messages were lost (entries ${lost.slice(0, 5).join(', ')})`
      )
    })
    if (this.doubled.length > 0) throw new Broken(`${this.doubled.length} messages came twice`)
    if (this.gaps.length > 0) throw new Broken(`the server declared a gap: ${this.gaps.join(', ')}`)
  }

  close(): void {
    this.#client.close()
  }
}
