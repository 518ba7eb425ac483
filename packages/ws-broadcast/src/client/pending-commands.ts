import type { ServerFrame } from '../protocol.js'
import { BroadcastError } from './error.js'

interface Pending {
  /** As it goes over the wire. */
  readonly frame: string
  /** A call: sent twice, the server may carry it out twice. A cancel frame stops it. */
  readonly isCall: boolean
  readonly isRepeatable: boolean
  readonly resolve: (frame: ServerFrame) => void
  readonly reject: (error: unknown) => void
  readonly stop: () => void
  isSent: boolean
}

/** What one command says; its id is added. */
export interface Command {
  readonly type: string
  readonly [field: string]: unknown
}

/** How one command waits for its answer. */
export interface CommandSettings {
  /** Milliseconds that the answer may take, connected or not. */
  readonly timeout: number
  readonly signal?: AbortSignal | undefined
  /** False if it may not be sent again over the next connection. Default true. */
  readonly isRepeatable?: boolean
}

/**
 * Commands that wait for their answer, however often the connection is made anew meanwhile.
 *
 *     waiting for a connection ──► sent ──► answered
 *          ▲                        │
 *          └── the connection ends ─┴── not repeatable: rejected with `interrupted`
 *
 * In each state the timeout, the caller's signal and the end of the client reject it.
 */
export class PendingCommands {
  readonly #pending = new Map<unknown, Pending>()
  readonly #send: (frame: string) => boolean
  #lastId = 0

  /** @param send false if there is no connection */
  constructor(send: (frame: string) => boolean) {
    this.#send = send
  }

  /** An id that no other command of this client has. */
  nextId(): number {
    return (this.#lastId += 1)
  }

  /** Sends a command now, or with the others once connected. */
  run(frame: Command, { timeout, signal, isRepeatable = true }: CommandSettings): Promise<ServerFrame> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      const id = this.nextId()
      const text = toJson({ ...frame, id })
      const giveUp = (error: unknown): void => {
        const pending = this.#pending.get(id)
        if (pending?.isCall && pending.isSent) this.#send(`{"type":"cancel","id":${id}}`)
        this.reject(id, error)
      }
      const timer = setTimeout(() => giveUp(new BroadcastError('timeout', 'No answer in time')), timeout)
      const onAbort = (): void => giveUp(signal!.reason)
      signal?.addEventListener('abort', onAbort)
      this.#pending.set(id, {
        frame: text,
        isCall: frame.type === 'call',
        isRepeatable,
        resolve,
        reject,
        stop: () => {
          clearTimeout(timer)
          signal?.removeEventListener('abort', onAbort)
        },
        isSent: this.#send(text)
      })
    })
  }

  /** A new connection is open: sends all of them. */
  sendAll(): void {
    for (const pending of this.#pending.values()) pending.isSent = this.#send(pending.frame)
  }

  /** The connection has ended. */
  interrupt(): void {
    for (const [id, { isSent, isRepeatable }] of this.#pending) {
      if (!isSent || isRepeatable) continue
      this.reject(id, new BroadcastError('interrupted', 'The connection ended before the answer came'))
    }
  }

  resolve(id: unknown, frame: ServerFrame): void {
    this.#end(id)?.resolve(frame)
  }

  /** False if no such command waits. */
  reject(id: unknown, error: unknown): boolean {
    const pending = this.#end(id)
    pending?.reject(error)
    return pending !== undefined
  }

  rejectAll(error: Error): void {
    for (const id of this.#pending.keys()) this.reject(id, error)
  }

  #end(id: unknown): Pending | undefined {
    const pending = this.#pending.get(id)
    this.#pending.delete(id)
    pending?.stop()
    return pending
  }
}

/** Before a command is kept: what has no JSON would throw at every reconnect. */
function toJson(frame: object): string {
  try {
    return JSON.stringify(frame)
  } catch {
    throw new BroadcastError('unserialisable', 'Send only what can be written as JSON')
  }
}
