import type { ClientConfig, Pool } from 'pg'
import { ConnectBackoff } from './connect-backoff.js'
import {
  connectTimeoutOf,
  createDriverPool,
  HookError,
  type PoolReports,
  type PoolSettings
} from './driver-pool.js'
import { because, ClosedError, PoolExhaustedError, retryAfter, UnavailableError } from './errors.js'
import type { RouterClient } from './router-client.js'
import { isRefusal } from './sqlstate.js'

export type AcquireCallback = (error: Error | undefined, client: RouterClient) => void

/** A caller without a connection: in line, or with an attempt to connect under way for it. */
interface Waiter {
  readonly callback: AcquireCallback
  /** Ends its wait in line; it has none until it has been in line. */
  timer: NodeJS.Timeout | undefined
}

const none = undefined as unknown as RouterClient

/** Loans of a connection between two returns to the driver's pool, which looks at its age. */
const LOANS = 100
/** How long a connection may lie ready before it is returned to the driver's pool, in milliseconds. */
const READY_FOR = 1_000

/**
 * The connections to one server: bounded, and the wait for one bounded too. The driver's pool makes them, keeps the idle
 * ones and ends the old ones; those in steady use are handed from one caller to the next without its work for each loan.
 */
export class ConnectionPool {
  readonly #name: string
  readonly #settings: PoolSettings
  readonly #pool: Pool
  readonly #report: PoolReports['event']
  /** Whether connections go from one caller to the next: not if the driver's pool must count or time each loan. */
  readonly #keepsReady: boolean
  readonly #clients = new Set<RouterClient>()
  /** Taken from the driver's pool and free; the one used last is used next. */
  readonly #ready: RouterClient[] = []
  readonly #waiting: Waiter[] = []
  /** Connections taken from the driver's pool, and those it has been asked for. */
  #taken = 0
  /** Those it has been asked for. */
  #pending = 0
  readonly #backoff = new ConnectBackoff()
  /** Serves the line again once another attempt may be made. */
  #retry: NodeJS.Timeout | undefined
  #sweep: NodeJS.Timeout | undefined
  #closed = false

  constructor(name: string, config: ClientConfig, settings: PoolSettings, reports: PoolReports) {
    this.#name = name
    this.#settings = settings
    this.#report = reports.event
    this.#keepsReady = settings.maxUses === undefined && settings.idleTimeout > READY_FOR
    this.#pool = createDriverPool(config, settings, {
      greeted: reports.greeted,
      event: reports.event,
      made: (client) => {
        this.#clients.add(client)
        client.once('end', () => this.#ended(client))
        client.on('error', (error) => this.#failedReady(client, error))
      }
    })
  }

  get total(): number {
    return this.#pool.totalCount
  }

  get idle(): number {
    return this.#pool.idleCount + this.#ready.length
  }

  /** Connections past their lifetime that are still lent. */
  get expired(): number {
    return this.#pool.expiredCount
  }

  get waiting(): number {
    return this.#waiting.length
  }

  /**
   * Lends a connection, at once where one is free.
   * @returns what takes the caller out of the line; does nothing if there was no wait
   */
  acquire(callback: AcquireCallback): () => void {
    const client = this.#popReady()
    if (client) {
      this.#hand(client, callback)
      return nothing
    }
    if (this.#closed) {
      callback(new ClosedError(), none)
      return nothing
    }
    const waiter: Waiter = { callback, timer: undefined }
    if (this.#mayTake()) this.#take(waiter)
    else if (!this.#mayComeFree()) callback(this.#unavailable(this.#backoff.error), none)
    else if (this.#waiting.length < this.#settings.maxWaiting) this.#wait(waiter)
    else callback(this.#exhausted(), none)
    return () => this.#leave(waiter)
  }

  /** The server was reached in another way: connecting need not wait any longer. */
  reachable(): void {
    this.#backoff.reachable()
    this.#serve()
  }

  /** Gives a connection back; with an error, or broken, it is dropped, and an open transaction is rolled back first. */
  release(client: RouterClient, error?: Error): void {
    this.returned(client, error)
    this.takeBack(client, error)
  }

  /** Reports that a borrower has given a connection back; {@link takeBack} must follow. */
  returned(client: RouterClient, error?: Error): void {
    this.#report('release', client, error)
  }

  /** {@link release} after {@link returned}, once what was not awaited is over. */
  takeBack(client: RouterClient, error?: Error): void {
    if (error || client.broken) return this.#giveBack(client, error ?? true)
    // The state of the transaction comes behind an error; and a borrower may not have awaited all it sent.
    if (!client.ready) return client.onceReady(() => this.takeBack(client))
    const status = client.getTransactionStatus()
    if (status !== 'T' && status !== 'E') return this.#free(client)
    const timer = setTimeout(() => client.destroy(new Error('ROLLBACK was not answered')), 5_000)
    timer.unref()
    client.ask({ text: 'rollback' }, (failed) => {
      clearTimeout(timer)
      if (failed) this.#giveBack(client, failed)
      else this.#free(client)
    })
  }

  /** Drops every connection, those in use too: what runs on them fails with `reason`. */
  destroyAll(reason: Error): void {
    this.destroyWhere(() => true, reason)
  }

  /** Drops connections that `stale` says belong to another server than before. */
  destroyWhere(stale: (client: RouterClient) => boolean, reason: Error): void {
    for (const client of this.#clients) if (stale(client)) client.destroy(reason)
  }

  /** Waits for what runs, until `deadline` milliseconds have passed, then drops the rest, be they in use. */
  async close(deadline: number): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#retry)
    for (const { callback, timer } of this.#waiting.splice(0)) {
      clearTimeout(timer)
      callback(new ClosedError(), none)
    }
    this.#returnReady()
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(() => {
        this.destroyAll(new ClosedError())
        resolve()
      }, deadline)
    })
    // The driver's pool ends once every connection is given back, which is up to those that hold them.
    await Promise.race([this.#pool.end(), late])
    clearTimeout(timer)
  }

  #popReady(): RouterClient | undefined {
    let client: RouterClient | undefined
    while ((client = this.#ready.pop())) {
      if (!client.broken) return client
      this.#giveBack(client, true)
    }
    return undefined
  }

  /** Whether the driver's pool may be asked for one more. */
  #mayTake(): boolean {
    if (this.#taken >= this.#settings.max) return false
    return this.#pool.idleCount > 0 || this.#backoff.allows(performance.now(), this.#pending)
  }

  /** Whether there is a connection, or an attempt at one, that a caller in line can hope for. */
  #mayComeFree(): boolean {
    return this.#taken > 0
  }

  #wait(waiter: Waiter): void {
    this.#start(waiter)
    this.#waiting.push(waiter)
    this.#serve()
  }

  #start(waiter: Waiter): void {
    waiter.timer ??= setTimeout(() => {
      if (this.#leave(waiter)) waiter.callback(this.#exhausted(), none)
    }, this.#settings.acquireTimeout).unref()
  }

  #leave(waiter: Waiter): boolean {
    const at = this.#waiting.indexOf(waiter)
    if (at === -1) return false
    clearTimeout(waiter.timer)
    this.#waiting.splice(at, 1)
    return true
  }

  #take(waiter: Waiter): void {
    this.#taken++
    this.#pending++
    this.#pool.connect((error, client) => {
      this.#pending--
      if (!client) {
        this.#taken--
        return this.#failed(error!, waiter)
      }
      this.#backoff.succeeded()
      clearTimeout(waiter.timer)
      const own = client as unknown as RouterClient
      own.giveBack = own.release
      own.loans = 0
      this.#hand(own, waiter.callback)
      // Others may have waited to see whether connecting works again.
      if (this.#waiting.length > 0) this.#serve()
    })
  }

  /** A caller that the server refuses waits for the connections there are; one whose server is away goes elsewhere. */
  #failed(error: Error, waiter: Waiter): void {
    if (error instanceof HookError) {
      clearTimeout(waiter.timer)
      this.#backoff.succeeded()
      waiter.callback(asError(error.cause), none)
      return this.#serve()
    }
    this.#backoff.failed(performance.now(), error)
    if (isRefusal(error) && this.#mayComeFree() && !this.#closed) {
      this.#start(waiter)
      this.#waiting.unshift(waiter)
    } else {
      clearTimeout(waiter.timer)
      waiter.callback(this.#explain(error), none)
    }
    if (this.#mayComeFree()) return this.#serve()
    for (const { callback, timer } of this.#waiting.splice(0)) {
      clearTimeout(timer)
      callback(this.#explain(error), none)
    }
  }

  /** To the next in line, or to the ready ones. */
  #free(client: RouterClient): void {
    client.pipeline = true
    client.asynchronous = false
    if (client.wasReset) return this.#giveBack(client, true)
    if (this.#closed || !this.#keepsReady || ++client.loans >= LOANS) return this.#giveBack(client)
    if (performance.now() - client.connectedAt >= this.#settings.maxLifetime) return this.#giveBack(client)
    if (this.#waiting.length > 0) return this.#lend(client)
    this.#ready.push(client)
    this.#sweep ??= setTimeout(() => this.#returnReady(), READY_FOR).unref()
  }

  #returnReady(): void {
    clearTimeout(this.#sweep)
    this.#sweep = undefined
    for (const client of this.#ready.splice(0)) this.#giveBack(client)
  }

  #giveBack(client: RouterClient, error?: Error | true): void {
    this.#taken--
    client.giveBack(error)
    this.#serve()
  }

  /** Lends the line what is free, and has the driver's pool make what it may. */
  #serve(): void {
    let client: RouterClient | undefined
    while (this.#waiting.length > 0 && (client = this.#popReady())) this.#lend(client)
    while (this.#waiting.length > 0 && this.#mayTake()) this.#take(this.#waiting.shift()!)
    if (this.#waiting.length === 0 || this.#taken >= this.#settings.max || this.#pending > 0) return
    this.#retry ??= setTimeout(
      () => {
        this.#retry = undefined
        this.#serve()
      },
      Math.ceil(this.#backoff.waitAt(performance.now()))
    ).unref()
  }

  /** To the first in line. */
  #lend(client: RouterClient): void {
    const { callback, timer } = this.#waiting.shift()!
    clearTimeout(timer)
    this.#hand(client, callback)
  }

  #hand(client: RouterClient, callback: AcquireCallback): void {
    this.#report('acquire', client)
    callback(undefined, client)
  }

  /** A connection that is free failed: the driver's pool watches over its idle ones alone. */
  #failedReady(client: RouterClient, error: Error): void {
    const at = this.#ready.indexOf(client)
    if (at === -1) return
    this.#ready.splice(at, 1)
    this.#giveBack(client, error)
    this.#report('error', client, Object.assign(error, { client }))
  }

  #ended(client: RouterClient): void {
    this.#clients.delete(client)
    const at = this.#ready.indexOf(client)
    if (at === -1) return
    this.#ready.splice(at, 1)
    this.#giveBack(client, true)
  }

  #exhausted(): Error {
    const error = new PoolExhaustedError(this.#name, this.#taken, this.#waiting.length)
    return retryAfter(because(error, this.#backoff.error), this.#settings.acquireTimeout)
  }

  #unavailable(cause: Error | undefined, detail = ''): Error {
    return retryAfter(because(new UnavailableError(this.#name + detail), cause), 1_000)
  }

  /** The server's own words stay inside, as cause: they name the user, and Fastify shows a message to the client. */
  #explain(error: Error): Error {
    if (error.message.startsWith('timeout exceeded')) return because(this.#exhausted(), error)
    const timedOut = error.message.endsWith(' timeout')
    const late = timedOut ? ` (timeout after ${connectTimeoutOf(this.#settings)} ms)` : ''
    return this.#unavailable(error, late)
  }
}

const nothing = (): void => {}

const asError = (thrown: unknown): Error => (thrown instanceof Error ? thrown : new Error(String(thrown)))
