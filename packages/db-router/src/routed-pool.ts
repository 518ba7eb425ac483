import { Pool, type PoolClient, type QueryResult } from 'pg'
import type { CausalSession } from './causal-session.js'
import { lend } from './lend.js'
import type { Router, StatementOptions } from './router.js'
import type { Server } from './server.js'
import { isReadOnly } from './sqlstate.js'
import { toStatement } from './statement.js'

type QueryCallback = (error: Error | undefined, result?: QueryResult) => void
type ConnectCallback = (
  error: Error | undefined,
  client: PoolClient | undefined,
  done: (release?: unknown) => void
) => void

/**
 * A `pg.Pool` to whoever uses one, such as an ORM: its connections are the router's. Ending it does nothing, for the
 * plugin owns the connections.
 */
export class RoutedPool extends Pool {
  readonly #kind: 'read' | 'write'
  readonly #router: Router
  readonly #session: CausalSession
  readonly #limits: StatementOptions

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
      waitingCount: count((server) => server.pool.waiting)
    })
  }

  // One signature that fits all of the base's: callers see those.
  override query(...args: unknown[]): never {
    const [config, second, third] = args
    const callback = [second, third].find((one) => typeof one === 'function') as QueryCallback | undefined
    const values = Array.isArray(second) ? (second as unknown[]) : undefined
    const statement = toStatement(config as string | object, values)
    const result =
      this.#kind === 'read'
        ? this.#router.read(this.#session, statement, this.#limits)
        : this.#router.write(this.#session, statement, this.#limits)
    if (!callback) return result as never
    callBack(result, callback)
    return undefined as never
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
  override end(callback: () => void): void
  override end(callback?: () => void): Promise<void> | void {
    if (callback) process.nextTick(callback)
    else return Promise.resolve()
  }

  #servers(): readonly Server[] {
    const { servers, primary } = this.#router.topology
    return servers.filter((one) => (this.#kind === 'write' ? one === primary : one !== primary))
  }

  async #lend(): Promise<PoolClient> {
    const router = this.#router
    const writes = this.#kind === 'write'
    const { server, client, release } = await (writes
      ? router.acquireForWrite({ session: this.#session })
      : router.acquireForRead({ session: this.#session }))
    server.inFlight++
    client.limit(this.#limits.timeout)
    client.restrict(!writes)
    // What the primary can not be told to refuse is followed.
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
      }
    })
  }
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
