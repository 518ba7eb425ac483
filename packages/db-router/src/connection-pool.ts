import { Pool, type ClientBase, type ClientConfig } from 'pg'
import { because, ClosedError, PoolExhaustedError, retryAfter, UnavailableError } from './errors.js'
import { greet, RouterClient, type SessionSettings } from './router-client.js'
import { isServerError } from './sqlstate.js'

export interface PoolSettings extends SessionSettings {
  /** Connections. */
  max: number
  /** Callers that may wait for a connection. */
  maxWaiting: number
  /** How long they wait, in milliseconds. */
  acquireTimeout: number
  /** How long making a connection may take, in milliseconds. */
  connectTimeout: number
  idleTimeout: number
  maxLifetime: number
}

type AcquireCallback = (error: Error | undefined, client: RouterClient) => void

const none = undefined as unknown as RouterClient

/** The connections to one server: bounded, and the wait for one bounded too. */
export class ConnectionPool {
  readonly #name: string
  readonly #settings: PoolSettings
  readonly #pool: Pool
  readonly #clients = new Set<RouterClient>()
  #closed = false

  constructor(name: string, config: ClientConfig, settings: PoolSettings) {
    this.#name = name
    this.#settings = settings
    const clients = this.#clients
    const Client = class extends RouterClient {
      constructor(options: ClientConfig) {
        super(options)
        clients.add(this)
        this.once('end', () => clients.delete(this))
      }
    }
    this.#pool = new Pool({
      ...config,
      max: settings.max,
      connectionTimeoutMillis: Math.min(settings.acquireTimeout, settings.connectTimeout),
      idleTimeoutMillis: settings.idleTimeout,
      maxLifetimeSeconds: settings.maxLifetime / 1000,
      Client: Client as unknown as new () => ClientBase,
      onConnect: (client) =>
        greet(client as RouterClient, settings, settings.connectTimeout) as unknown as undefined
    })
    // An idle backend that is terminated must not end the process.
    this.#pool.on('error', () => {})
  }

  get total(): number {
    return this.#pool.totalCount
  }

  get idle(): number {
    return this.#pool.idleCount
  }

  get waiting(): number {
    return this.#pool.waitingCount
  }

  /** Whether a caller would get a connection without waiting for another caller. */
  get free(): boolean {
    return this.#pool.idleCount > this.#pool.waitingCount || this.#pool.totalCount < this.#settings.max
  }

  acquire(callback: AcquireCallback): void {
    if (this.#closed) return callback(new ClosedError(), none)
    if (!this.free && this.#pool.waitingCount >= this.#settings.maxWaiting) {
      return callback(this.#exhausted(), none)
    }
    this.#pool.connect((error, client) => {
      if (client) {
        const own = client as unknown as RouterClient
        own.giveBack = own.release
        return callback(undefined, own)
      }
      callback(this.#explain(error!), none)
    })
  }

  /** Gives a connection back; with an error, or broken, it is dropped, and an open transaction is rolled back first. */
  release(client: RouterClient, error?: Error): void {
    if (error || client.broken) return client.giveBack(error ?? true)
    client.pipeline = true
    const status = client.getTransactionStatus()
    if (status !== 'T' && status !== 'E') return client.giveBack()
    const timer = setTimeout(() => client.destroy(new Error('ROLLBACK was not answered')), 5_000)
    timer.unref()
    client.send({ text: 'rollback' }, (failed) => {
      clearTimeout(timer)
      client.giveBack(failed)
    })
  }

  /** Drops every connection, those in use too: what runs on them fails with `reason`. */
  destroyAll(reason: Error): void {
    for (const client of this.#clients) client.destroy(reason)
  }

  /** Drops connections that `stale` says belong to another server than before. */
  destroyWhere(stale: (client: RouterClient) => boolean, reason: Error): void {
    for (const client of this.#clients) if (stale(client)) client.destroy(reason)
  }

  /** Waits for what runs, until `deadline` milliseconds have passed, then drops the rest. */
  async close(deadline: number): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    const timer = setTimeout(() => this.destroyAll(new ClosedError()), deadline)
    await this.#pool.end()
    clearTimeout(timer)
  }

  #exhausted(): Error {
    const error = new PoolExhaustedError(this.#name, this.#settings.max, this.#pool.waitingCount)
    return retryAfter(error, this.#settings.acquireTimeout)
  }

  #explain(error: Error): Error {
    if (error.message.startsWith('timeout exceeded')) return because(this.#exhausted(), error)
    if (isServerError(error)) return error
    return because(new UnavailableError(this.#name), error)
  }
}
