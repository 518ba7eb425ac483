import type { ServerFrame } from '../protocol.js'
import { BroadcastError } from './error.js'
import type { ClientOptions, ClientState, WebSocketConstructor, WebSocketLike } from './types.js'
import { onWake } from './wake.js'

/** Close codes after which a reconnect would be refused again: bad frames, logged out, disconnected. */
const FINAL = new Set([1003, 4400, 4401, 4403])
/** A value, or the function that is asked for it at each attempt. */
export type Source<Value> = Value | (() => Value | Promise<Value>)

/** How long the answer to a ping may take after the page or the network has come back, in milliseconds. */
const PROBE_MS = 3000
/** The interval of pings until the server has announced its own. */
const PING_MS = 25_000
/** "Nothing came in time", as the server's own code has it. */
const SILENT = 4408

/** What a link reports. */
export interface LinkEvents {
  /** A frame of the server; the first of a connection is `welcome`. */
  onFrame(frame: ServerFrame): void
  /** The connection has ended; the next attempt follows, or `onClosed`. */
  onLost(code: number): void
  onState(state: ClientState, code?: number, reason?: string): void
  /** It has ended for good. */
  onClosed(code: number, reason?: string): void
  onError(error: BroadcastError): void
}

/**
 * One connection that comes back by itself.
 *
 *        ┌─────────── failed, lost or given up: later each time ────────────┐
 *        ▼                                                     │            │
 *     waiting ── the pause is over, or the page wakes ──► opening ── welcome ──► open
 *        │                                                   │              │
 *        └──────────── close(), or a final close code ───────┴──────────────┴──► closed
 *
 * Opening: asks for the URL, opens the socket and waits for the server's welcome; given up after `connectTimeout`. Open: given
 * up when nothing has come for two ping intervals. One timer serves the phase. What belongs to an earlier attempt is dropped.
 */
export class Link {
  #phase: 'waiting' | 'opening' | 'open' | 'closed' = 'waiting'
  #attempt = {}
  #socket: WebSocketLike | undefined
  #timer: ReturnType<typeof setTimeout> | undefined
  #failures = 0
  /** The server has chosen the pause before the next attempt. */
  #advisedMs: number | undefined
  #isAdvised = false
  #pingMs = PING_MS
  readonly #Socket: WebSocketConstructor
  readonly #url: Source<string | URL>
  readonly #options: ClientOptions
  readonly #events: LinkEvents
  readonly #stopWaking: () => void

  constructor(url: Source<string | URL>, options: ClientOptions, events: LinkEvents) {
    const scope = globalThis as { WebSocket?: unknown }
    const Socket = options.WebSocket ?? (scope.WebSocket as WebSocketConstructor | undefined)
    if (!Socket) throw new TypeError('No global WebSocket here: pass { WebSocket } from the package ws')
    // A URL that can never work is reported at once.
    if (typeof url !== 'function') toAddress(url)
    this.#Socket = Socket
    this.#url = url
    this.#options = options
    this.#events = events
    this.#stopWaking = onWake((isOnline) => this.#wake(isOnline))
    this.#open()
  }

  /** How long a pause is at most after so many failures in a row, in milliseconds. */
  backOff(failures: number): number {
    const { min = 500, max = 20_000 } = this.#options.reconnect ?? {}
    return Math.min(max, min * 2 ** failures)
  }

  /** False if there is no connection. */
  send(frame: string): boolean {
    if (this.#phase !== 'open') return false
    this.#socket!.send(frame)
    return true
  }

  close(code: number, reason?: string): void {
    if (this.#phase === 'closed') return
    this.#phase = 'closed'
    this.#stopWaking()
    this.#drop()
    this.#events.onState('closed', code, reason)
    this.#events.onClosed(code, reason)
  }

  #open(): void {
    this.#phase = 'opening'
    const attempt = {}
    this.#attempt = attempt
    this.#giveUpAfter(this.#options.connectTimeout ?? 10_000)
    void this.#connect(attempt)
  }

  async #connect(attempt: object): Promise<void> {
    const isCurrent = (): boolean => this.#attempt === attempt
    try {
      const [url, protocols] = await Promise.all([ask(this.#url), ask(this.#options.protocols)])
      if (!isCurrent()) return
      const socket = new this.#Socket(toAddress(url), protocols)
      this.#socket = socket
      socket.addEventListener('message', ({ data }) => {
        if (isCurrent()) this.#receive(JSON.parse(String(data)) as ServerFrame)
      })
      socket.addEventListener('close', ({ code, reason }) => {
        if (isCurrent()) this.#lose(code, reason)
      })
      // A close follows; without a listener the socket of `ws` would throw.
      socket.addEventListener('error', () => undefined)
    } catch (cause) {
      if (!isCurrent()) return
      const error = new BroadcastError('connect', `No connection was tried: ${String(cause)}`)
      this.#events.onError(Object.assign(error, { cause }))
      if (isCurrent()) this.#lose()
    }
  }

  #receive(frame: ServerFrame): void {
    if (frame.type === 'welcome') {
      this.#phase = 'open'
      this.#pingMs = frame.ping
    }
    this.#giveUpAfter(this.#pingMs * 2)
    if (frame.type === 'reconnect') {
      this.#advisedMs = frame.delay
    } else if (frame.type === 'ping') {
      // The connection lasts; before that it may end as the one before did, by its subscribes or by what they bring.
      this.#failures = 0
      this.send('{"type":"pong"}')
    } else {
      this.#events.onFrame(frame)
    }
  }

  #lose(code = 1006, reason?: string): void {
    if (FINAL.has(code)) {
      this.close(code, reason)
      return
    }
    const advisedMs = this.#advisedMs
    this.#isAdvised = advisedMs !== undefined
    this.#wait(advisedMs ?? Math.random() * this.backOff(this.#failures++))
    this.#events.onLost(code)
    this.#events.onState('connecting', code, reason)
  }

  /** Ends what there is of a connection and opens the next one after a pause. */
  #wait(ms: number): void {
    this.#drop()
    this.#phase = 'waiting'
    this.#timer = setTimeout(() => this.#open(), ms)
  }

  #drop(): void {
    clearTimeout(this.#timer)
    const socket = this.#socket
    this.#socket = undefined
    this.#attempt = {}
    this.#advisedMs = undefined
    socket?.close(1000)
  }

  #giveUpAfter(ms: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#lose(SILENT), ms)
  }

  #wake(isOnline: boolean): void {
    if (this.#phase === 'open') {
      // The network may be another one, and the connection lost with the old one.
      this.send('{"type":"ping"}')
      this.#giveUpAfter(PROBE_MS)
    } else if (this.#phase === 'waiting' ? !this.#isAdvised : this.#phase === 'opening' && isOnline) {
      // An attempt of before may hang. The pause keeps apart the clients that share the network.
      this.#wait(Math.random() * this.backOff(0))
    }
  }
}

async function ask<Value>(source: Source<Value>): Promise<Value> {
  return typeof source === 'function' ? (source as () => Value | Promise<Value>)() : source
}

/** Absolute, or relative to the page. */
function toAddress(url: string | URL): string {
  const address = new URL(url, (globalThis as { location?: { href: string } }).location?.href)
  address.protocol = address.protocol.replace('http', 'ws')
  return address.href
}
