import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { WebSocket } from 'ws'
import type { Batch } from './outbox.js'
import { onceFlushed, type Transport } from './transport.js'

/** The parts of a `ws` socket that tell whether its bytes may be written past it. */
interface WebSocketInternals {
  readonly _socket?: Socket
  readonly _sender?: {
    readonly _state?: number
    readonly _firstFragment?: boolean
  }
  readonly _receiver?: PayloadLimit & { readonly _extensions?: Readonly<Record<string, PayloadLimit>> }
}

/** 0: none. */
interface PayloadLimit {
  _maxPayload?: number
}

/**
 * Lets go of the HTTP response of the upgrade. Node ties it to the socket, and with it the request and the
 * reply, for as long as the connection lives; nothing is ever sent through it.
 */
export function releaseUpgrade(ws: WebSocket): void {
  const { _socket: socket } = ws as unknown as { _socket?: Socket & { _httpMessage?: ServerResponse | null } }
  if (socket?._httpMessage) socket._httpMessage.detachSocket(socket)
}

/**
 * Has a longer message refused (1009) by the length that it announces, or as it is unpacked, and not once it is whole. The
 * app's own `@fastify/websocket` may take more, for its own routes. (With a version of ws that has no such
 * fields, what is too long is refused when it has come.)
 */
export function limitPayload(ws: WebSocket, maxPayload: number): void {
  const { _receiver: receiver } = ws as unknown as WebSocketInternals
  for (const limit of [receiver, ...Object.values(receiver?._extensions ?? {})]) {
    if (typeof limit?._maxPayload !== 'number') continue
    if (limit._maxPayload === 0 || limit._maxPayload > maxPayload) limit._maxPayload = maxPayload
  }
}

const OPEN = 1
const IDLE = 0
/** What a close frame has room for beside its code (RFC 6455 §5.5). */
const MAX_REASON = 123

/** As many whole characters as fit; ws throws for more. */
function fitCloseReason(reason: string): string {
  const { read } = new TextEncoder().encodeInto(reason, new Uint8Array(MAX_REASON))
  return reason.slice(0, read)
}

/**
 * Writes ready frames straight to the TCP socket under `ws`. That is safe only between two of its own frames:
 * open, no extension negotiated, nothing half sent (and so nothing queued). Otherwise, and with a version of ws that
 * has no such fields, each message goes through `ws.send`.
 */
export class WsTransport implements Transport {
  /** Where bytes may be written past ws; kept here, so that a fan-out touches fewer objects of each socket. */
  readonly #socket: Socket | undefined
  readonly #sender: WebSocketInternals['_sender']
  #sending = 0

  constructor(readonly ws: WebSocket) {
    const { _sender: sender, _socket: socket } = ws as unknown as WebSocketInternals
    const known = typeof sender?._state === 'number' && typeof sender._firstFragment === 'boolean'
    if (ws.extensions !== '' || !known) return
    this.#socket = socket
    this.#sender = sender
  }

  get kind(): 'ws' {
    return 'ws'
  }

  get open(): boolean {
    return this.ws.readyState === OPEN
  }

  get buffered(): number {
    return this.ws.bufferedAmount
  }

  write(batch: Batch): boolean {
    if (!this.open) return true
    const socket = this.#rawSocket()
    if (!socket) {
      for (const frame of batch.frames()) {
        this.#sending += 1
        this.ws.send(frame.body, { binary: false }, () => this.#sent())
      }
      return false
    }
    const joined = batch.joined()
    if (joined) {
      socket.write(joined)
    } else {
      socket.cork()
      for (const frame of batch.frames()) socket.write(frame.bytes)
      socket.uncork()
    }
    return socket.writableLength === 0
  }

  onceDrained(callback: () => void): void {
    const { _socket: socket } = this.ws as unknown as WebSocketInternals
    if (this.#sending > 0) this.#drained = callback
    else onceFlushed(socket, callback)
  }

  #drained: (() => void) | undefined

  #sent(): void {
    this.#sending -= 1
    if (this.#sending > 0 || !this.#drained) return
    const callback = this.#drained
    this.#drained = undefined
    callback()
  }

  ping(): void {
    if (this.open) this.ws.ping()
  }

  pause(): void {
    this.ws.pause()
  }

  resume(): void {
    this.ws.resume()
  }

  close(code: number, reason: string): void {
    this.ws.close(code, fitCloseReason(reason))
  }

  terminate(): void {
    this.ws.terminate()
  }

  #rawSocket(): Socket | undefined {
    const socket = this.#socket
    if (socket === undefined) return undefined
    const { _state: state, _firstFragment: first } = this.#sender!
    return state === IDLE && first === true && socket.writable ? socket : undefined
  }
}
