import type { EventEmitter } from 'node:events'
import { Readable } from 'node:stream'
import { Pool, Query, type PoolClient, type QueryResult, type Submittable } from 'pg'
import type { CausalSession } from './causal-session.js'
import type { ConnectionEvent, ConnectionListener } from './connection-events.js'
import { fromCaller } from './errors.js'
import { lend } from './lend.js'
import type { Router, StatementOptions } from './router.js'
import type { Server } from './server.js'
import { isReadOnly } from './sqlstate.js'
import { isNoQuery, noQuery, toStatement } from './statement.js'

type ConnectCallback = (
  error: Error | undefined,
  client: PoolClient | undefined,
  done: (release?: unknown) => void
) => void

const EVENTS: ReadonlySet<unknown> = new Set<ConnectionEvent>([
  'connect',
  'acquire',
  'release',
  'remove',
  'error'
])

/**
 * A `pg.Pool` for what uses one, such as an ORM: its connections are the router's. Its counters and events are those of the
 * servers that it leads to, whichever pool of the app a connection is lent through.
 *
 *     open --end()--> ending --(its own loans and statements are over)--> ended
 *
 * It ends alone: the plugin owns the connections, and `db.write.pool` is a new one then.
 */
export class RoutedPool extends Pool {
  readonly #kind: 'read' | 'write'
  readonly #router: Router
  readonly #session: CausalSession
  readonly #limits: StatementOptions
  #state: 'open' | 'ending' | 'ended' = 'open'
  /** Its own loans and statements. */
  #running = 0
  #whenOver: (() => void) | undefined
  /** Held here, since the router holds it weakly. */
  #listener: ConnectionListener | undefined

  constructor(kind: 'read' | 'write', router: Router, session: CausalSession, limits: StatementOptions) {
    super()
    this.#kind = kind
    this.#router = router
    this.#session = session
    this.#limits = limits
    const count = (of: (server: Server) => number): PropertyDescriptor => ({
      get: () => this.#servers().reduce((sum, server) => sum + of(server), 0)
    })
    Object.defineProperties(this, {
      totalCount: count((server) => server.pool.total),
      idleCount: count((server) => server.pool.idle),
      waitingCount: count((server) => server.pool.waiting),
      expiredCount: count((server) => server.pool.expired),
      ending: { get: () => this.#state !== 'open' },
      ended: { get: () => this.#state === 'ended' }
    })
    ;(this as EventEmitter).on('newListener', (event: unknown) => {
      if (EVENTS.has(event)) this.#listen()
    })
  }

  // One signature that fits all of the base's: callers see those.
  override query(...args: unknown[]): never {
    const [config, second, third] = args
    const [values, callback] = typeof second === 'function' ? [undefined, second] : [second, third]
    if (typeof config === 'function') return this.#answer(refuseFunction(), config) as never
    if (callback !== undefined && typeof callback !== 'function') {
      throw new TypeError('callback is not a function')
    }
    return this.#answer(this.#run(config, values), callback) as never
  }

  override connect(): Promise<PoolClient>
  override connect(callback: ConnectCallback): void
  override connect(callback?: ConnectCallback): Promise<PoolClient> | void {
    const lent = this.#lend()
    if (!callback) return lent
    callBack(lent, (error, client) =>
      callback(error, client, (reason) => client?.release(reason as Error | boolean | undefined))
    )
  }

  override end(): Promise<void>
  override end(callback: (error?: Error) => void): void
  override end(callback?: (error?: Error) => void): Promise<void> | void {
    return this.#answer(this.#end(), callback) as Promise<void>
  }

  async #end(): Promise<void> {
    if (this.ending) throw new Error('Called end on pool more than once')
    this.#state = 'ending'
    if (this.#running > 0) await new Promise<void>((resolve) => (this.#whenOver = resolve))
    this.#state = 'ended'
  }

  #began(): void {
    this.#running++
  }

  readonly #over = (): void => {
    if (--this.#running === 0) this.#whenOver?.()
  }

  #answer<T>(result: Promise<T>, callback: unknown): Promise<T> | undefined {
    if (typeof callback !== 'function') return result
    callBack(result, callback as (error: Error | undefined, value?: T) => void)
    return undefined
  }

  #run(config: unknown, values: unknown): Promise<QueryResult> {
    if (this.ending) return Promise.reject(afterEnd())
    if (isNoQuery(config)) return noQuery()
    if (typeof (config as Submittable).submit === 'function' && !(config instanceof Query)) {
      if (config instanceof Readable) return this.#stream(config as Readable & Submittable, values)
      return Promise.reject(new TypeError('A cursor needs a connection to itself: use pool.connect()'))
    }
    const statement = toStatement(config, values as unknown[] | undefined)
    this.#began()
    const result =
      this.#kind === 'read'
        ? this.#router.read(this.#session, statement, this.#limits)
        : this.#router.write(this.#session, statement, this.#limits)
    return result.finally(this.#over)
  }

  /** A query stream has a connection to itself until it is closed. */
  async #stream(stream: Readable & Submittable, values: unknown): Promise<QueryResult> {
    const client = await this.#lend()
    return new Promise((resolve, reject) => {
      stream.once('close', () => {
        client.release()
        // Left early, it has no result.
        resolve(undefined as unknown as QueryResult)
      })
      const done = (error: Error | undefined, result: QueryResult): void =>
        error ? reject(error) : resolve(result)
      ;(client.query as (...args: unknown[]) => unknown)(stream, values, done)
    })
  }

  /** Passes on events from the first listener on: most pools never have one. */
  #listen(): void {
    if (this.#listener) return
    this.#listener = {
      onConnection: (event, server, client, error) => {
        if (this.listenerCount(event) === 0 || !this.#servers().includes(server)) return
        const lent = client as PoolClient
        if (event === 'error') this.emit(event, error!, lent)
        else if (event === 'release') this.emit(event, error!, lent)
        else this.emit(event, lent)
      }
    }
    this.#router.topology.connections.add(this.#listener)
  }

  #servers(): readonly Server[] {
    const { hasReplicas, topology } = this.#router
    const { servers, primary } = topology
    const replicas = this.#kind === 'read' && hasReplicas
    return servers.filter((one) => (one === primary) !== replicas)
  }

  async #lend(): Promise<PoolClient> {
    if (this.ending) throw afterEnd()
    this.#began()
    try {
      return await this.#acquire()
    } catch (error) {
      this.#over()
      throw fromCaller(error)
    }
  }

  async #acquire(): Promise<PoolClient> {
    const router = this.#router
    const writes = this.#kind === 'write'
    const { server, client, release } = await (writes
      ? router.acquireForWrite({ session: this.#session })
      : router.acquireForRead({ session: this.#session }))
    server.inFlight++
    client.limit(this.#limits.timeout)
    client.restrict(!writes)
    // What the primary can not be made to refuse is followed.
    const mayWrite = writes || (client.pooled && server === router.topology.primary)
    return lend(client, {
      server,
      session: this.#session,
      sink: mayWrite && router.captures ? router.topology : undefined,
      explain: (error) => {
        // It may be the caller's own BEGIN READ ONLY: look before fencing.
        if (writes && isReadOnly(error)) void server.monitor.look()
        return error
      },
      returned: () => {
        server.inFlight--
        release()
        this.#over()
      }
    })
  }
}

const afterEnd = (): Error => new Error('Cannot use a pool after calling end on the pool')

async function refuseFunction(): Promise<never> {
  throw new Error('Passing a function as the first parameter to pool.query is not supported')
}

/** Settles a callback of the driver's older interface. */
function callBack<T>(promise: Promise<T>, callback: (error: Error | undefined, value?: T) => void): void {
  void (async () => {
    let outcome: [Error | undefined, T?]
    try {
      outcome = [undefined, await promise]
    } catch (error) {
      outcome = [error as Error]
    }
    // Outside the promise: what the callback throws is its caller's, not a rejection of ours.
    process.nextTick(callback, ...outcome)
  })()
}
