import type { ServerFrame } from '../protocol.js'
import { BroadcastError } from './error.js'

interface Call {
  /** As it goes over the wire. */
  frame: string
  resolve: (frame: ServerFrame) => void
  reject: (error: Error) => void
  timer: ReturnType<typeof setTimeout>
}

/** Commands that wait for their answer, however often the connection is made anew meanwhile. */
export class Calls {
  readonly #open = new Map<unknown, Call>()
  #lastId = 0

  /**
   * @param timeout milliseconds that an answer may take, connected or not
   * @param send sends where there is a connection
   */
  constructor(
    private readonly timeout: number,
    private readonly send: (frame: string) => void
  ) {}

  /** What no other command of this client is known by. */
  nextId(): number {
    return (this.#lastId += 1)
  }

  /** Sends a command now, or with the others once connected. */
  make(frame: object): Promise<ServerFrame> {
    return new Promise((resolve, reject) => {
      const id = this.nextId()
      const text = toJson({ ...frame, id })
      const timer = setTimeout(
        () => this.reject(id, new BroadcastError('timeout', 'No answer in time')),
        this.timeout
      )
      this.#open.set(id, { frame: text, resolve, reject, timer })
      this.send(text)
    })
  }

  /** Sends all of them, over a new connection. */
  sendAll(): void {
    for (const { frame } of this.#open.values()) this.send(frame)
  }

  resolve(id: unknown, frame: ServerFrame): void {
    this.#end(id)?.resolve(frame)
  }

  /** False where no such command waits. */
  reject(id: unknown, error: Error): boolean {
    const call = this.#end(id)
    call?.reject(error)
    return call !== undefined
  }

  rejectAll(error: Error): void {
    for (const id of this.#open.keys()) this.reject(id, error)
  }

  #end(id: unknown): Call | undefined {
    const call = this.#open.get(id)
    this.#open.delete(id)
    clearTimeout(call?.timer)
    return call
  }
}

/** Before a command is kept: what has no JSON would throw at every reconnect. */
function toJson(frame: object): string {
  try {
    return JSON.stringify(frame)
  } catch {
    throw new BroadcastError('unserialisable', 'Publish only what can be written as JSON')
  }
}
