import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { Connection } from '../connection.js'
import { CallRefusedError, FLOTILLA_WS_ERR_TOO_LARGE } from '../errors.js'
import { Frame } from '../frame.js'
import type { Identity } from '../identity.js'
import { Refusal } from '../refusal.js'
import { CLIENT_GONE } from '../turns.js'
import { validate, type Schema } from '../schema.js'

/** A question of a client. */
export interface Call<Data = unknown> {
  /** The upgrade request of its connection. */
  readonly request: FastifyRequest
  /** Whose connection it is. */
  readonly identity: Identity
  /** The id of the connection. */
  readonly connection: string
  /** What the schema made of the client's data. Without a schema any JSON value, or undefined: the client chose it. */
  readonly data: Data
  /** Aborted when the client no longer waits for the answer, or has gone. */
  readonly signal: AbortSignal
}

/** Answers a call: what it returns, or resolves with, reaches the client as JSON has it. */
export type CallHandler<Data = unknown> = (call: Call<Data>) => unknown

/** How a call is answered. */
export interface CallOptions<Data = unknown> {
  /** Checks what clients send: a schema of Zod, Valibot, ArkType or any library that implements Standard Schema. */
  schema?: Schema<Data>
}

/** What the client's frame says. */
export interface CallFrame {
  readonly name: unknown
  readonly data: unknown
  /** Without one, no answer is expected. */
  readonly id: number | string | undefined
}

/** A running call as its connection knows it. */
type CallId = number | string | symbol

interface RegisteredCall {
  readonly schema: Schema | undefined
  readonly handler: CallHandler<never>
}

/** Between two log lines about handlers that failed: clients choose how often that is. */
const REPORT_PAUSE_MS = 60_000

/**
 * The calls that the app answers. One call:
 *
 *     checked by its schema ──► running ──► answered
 *           │                      │
 *           │                      ├── the handler throws ──► refused with a code
 *           └── does not fit       └── the client cancels, or goes ──► its signal is aborted, nothing is sent
 *
 * Calls of one connection run beside each other, at most as many as it may have commands under way.
 */
export class Calls {
  readonly #registered = new Map<string, RegisteredCall>()
  readonly #running = new WeakMap<Connection, Map<CallId, AbortController>>()
  readonly #maxPayload: number
  readonly #log: FastifyBaseLogger
  #failures = 0
  #quietUntil = 0

  constructor(maxPayload: number, log: FastifyBaseLogger) {
    this.#maxPayload = maxPayload
    this.#log = log
  }

  get size(): number {
    return this.#registered.size
  }

  has(name: string): boolean {
    return this.#registered.has(name)
  }

  register(name: string, schema: Schema | undefined, handler: CallHandler<never>): void {
    this.#registered.set(name, { schema, handler })
  }

  /**
   * Runs the handler and sends what it returned.
   *
   * @throws Refusal; CLIENT_GONE if there is no one to answer
   */
  async answer(connection: Connection, { name, data, id }: CallFrame): Promise<void> {
    const call = typeof name === 'string' ? this.#registered.get(name) : undefined
    if (!call) throw new Refusal('unknown_call', 'The server answers no call of this name')
    const controller = new AbortController()
    const running = this.#runningOf(connection)
    const key = id ?? Symbol('unanswered')
    if (running.has(key)) throw new Refusal('bad_frame', 'Another call with this id is under way')
    running.set(key, controller)
    try {
      const result = await this.#run(connection, call, data, controller.signal)
      if (id === undefined) return
      const frame = this.#toFrame(result, id)
      // What other calls have returned goes first: a client that takes its answers slowly still gets all of them.
      while (connection.slow && connection.open) await connection.drained()
      connection.push(frame)
    } catch (error) {
      if (error === CLIENT_GONE || error instanceof Refusal || error instanceof CallRefusedError) throw error
      this.#report(error, name)
      throw isUnavailable(error)
        ? error
        : new Refusal('internal', 'The server could not answer this call; its log says why')
    } finally {
      running.delete(key)
    }
  }

  /** The client no longer waits for the answer. */
  cancel(connection: Connection, id: unknown): void {
    this.#running
      .get(connection)
      ?.get(id as CallId)
      ?.abort()
  }

  /** The connection has ended. */
  end(connection: Connection): void {
    const running = this.#running.get(connection)
    this.#running.delete(connection)
    for (const controller of running?.values() ?? []) controller.abort()
  }

  /** Settles at once when the call is aborted, however long its handler takes. */
  #run(
    connection: Connection,
    { schema, handler }: RegisteredCall,
    sent: unknown,
    signal: AbortSignal
  ): Promise<unknown> {
    const { id, identity } = connection
    const request = connection.request!
    const work = async (): Promise<unknown> => {
      const data = schema ? await validate(schema, sent) : sent
      signal.throwIfAborted()
      return handler({ request, identity, connection: id, data: data as never, signal })
    }
    return new Promise((resolve, reject) => {
      signal.addEventListener('abort', () => reject(CLIENT_GONE), { once: true })
      work().then(resolve, reject)
    })
  }

  #toFrame(result: unknown, id: number | string): Frame {
    const json = JSON.stringify({ type: 'result', id, data: result ?? null })
    const bytes = Buffer.byteLength(json)
    if (bytes > this.#maxPayload) throw new FLOTILLA_WS_ERR_TOO_LARGE(bytes, this.#maxPayload)
    return new Frame(json)
  }

  #report(err: unknown, call: unknown): void {
    this.#failures += 1
    const now = performance.now()
    if (now < this.#quietUntil) return
    this.#quietUntil = now + REPORT_PAUSE_MS
    this.#log.error({ err, call, failures: this.#failures }, 'calls of clients failed')
    this.#failures = 0
  }

  #runningOf(connection: Connection): Map<CallId, AbortController> {
    let running = this.#running.get(connection)
    if (!running) {
      running = new Map()
      this.#running.set(connection, running)
    }
    return running
  }
}

/** Such as a publish that Redis did not take: the client may try again. */
function isUnavailable(error: unknown): boolean {
  return (error as { statusCode?: unknown } | null | undefined)?.statusCode === 503
}
