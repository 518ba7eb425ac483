import { Client, Query, type PoolClient, type QueryResult, type Submittable } from 'pg'
import { capturePosition, mayCommit, type PositionSink } from './capture.js'
import type { CausalSession } from './causal-session.js'
import { fromCaller, ReleasedError } from './errors.js'
import { LentQueue } from './lent-queue.js'
import type { RouterClient, Statement, StatementCallback } from './router-client.js'
import type { Server } from './server.js'

/** What a lent connection reports to. */
export interface Lending {
  readonly server: Server
  readonly session: CausalSession
  /** Where positions of what is committed on it go; none are asked for without. */
  readonly sink: PositionSink | undefined
  /** Turns what the server says into what the caller gets. */
  readonly explain: (error: Error) => Error
  /** Called once, when it is given back. */
  readonly returned: () => void
}

type AnyCallback = (error: Error | undefined, result?: QueryResult) => void

/**
 * Hands a pooled connection to the caller as a `PoolClient`. Statements that may commit take the question for their
 * position with them, so that what an ORM writes in its own transactions is read back too.
 */
export function lend(client: RouterClient, lending: Lending): PoolClient {
  const loan = new Loan(client, lending)
  client.query = loan.query as typeof client.query
  client.release = loan.release
  // As the driver's own: what the router itself has in flight is kept apart by the loan's queue.
  client.pipeline = false
  return client
}

/** One loan of a connection. */
class Loan {
  readonly #client: RouterClient
  readonly #lending: Lending
  readonly #queue: LentQueue
  readonly #own: (config: unknown, values?: unknown, callback?: unknown) => unknown
  /** Something ran whose text, and so whose writing, the router does not see. */
  #uncaptured = false
  #returned = false

  constructor(client: RouterClient, lending: Lending) {
    this.#client = client
    this.#lending = lending
    this.#queue = new LentQueue(client)
    this.#own = Client.prototype.query.bind(client) as never
  }

  readonly query = (config: unknown, values?: unknown, callback?: unknown): unknown => {
    if (config === undefined || config === null) {
      throw new TypeError('Client was passed a null or undefined query')
    }
    if (typeof (config as Submittable).submit === 'function') return this.#submit(config, values, callback)
    const statement = normalize(this.#client, config, values)
    const done = (typeof values === 'function' ? values : (callback ?? statement.callback)) as
      | AnyCallback
      | undefined
    if (done !== undefined && typeof done !== 'function') throw new TypeError('callback is not a function')
    if (done) return this.#push(statement, done)
    const answer = new Promise((resolve, reject) => {
      this.#push(statement, (error, result) => (error ? reject(error) : resolve(result)))
    })
    return answer.catch((error: unknown) => {
      throw fromCaller(error)
    })
  }

  readonly release = (error?: Error | boolean): void => {
    if (this.#returned) throw new ReleasedError()
    this.#returned = true
    const client = this.#client
    const { server, session, sink, returned } = this.#lending
    client.query = refuse as typeof client.query
    returned()
    const failure = error === true ? new Error('Released to be dropped') : error || undefined
    server.pool.returned(client, failure)
    // What is still in line fails with the connection.
    if (failure || client.broken) return server.pool.takeBack(client, failure)
    if (!sink) return this.#queue.finish(() => server.pool.takeBack(client))
    // What was not awaited may still write, and what a cursor or COPY did was not followed: this author's reads wait.
    let settled = false
    const position = new Promise<void>((resolve) => {
      this.#queue.finish(() => {
        const over = (): void => {
          server.pool.takeBack(client)
          settled = true
          resolve()
        }
        if (this.#uncaptured) capturePosition(client, session, sink, over)
        else over()
      })
    })
    if (!settled) session.settle(position)
  }

  #submit(query: unknown, values: unknown, callback: unknown): unknown {
    this.#uncaptured = true
    this.#client.asynchronous = true
    this.#queue.push({
      open: !(query instanceof Query),
      run: () => {
        this.#client.pipeline = false
        this.#own(query, values, callback)
      }
    })
    return query
  }

  #push(statement: Statement, callback: AnyCallback): void {
    this.#queue.push({ open: false, run: () => this.#send(statement, callback) })
  }

  #send(statement: Statement, callback: AnyCallback): void {
    const client = this.#client
    const { session, sink, explain } = this.#lending
    const text = statement.text ?? ''
    // Nothing may follow it before the server has heard that there is no data.
    const copies = /\bcopy\b/i.test(text)
    if (copies) this.#uncaptured = true
    const capture = sink !== undefined && !copies && mayCommit(text, client.getTransactionStatus())
    let outcome: Parameters<StatementCallback> | undefined
    const done = (): void => {
      const [error, result] = outcome!
      callback(error && explain(error), result)
    }
    // The question for the position goes along: only these two are ever in flight together.
    client.pipeline = capture
    const send = (): void => {
      client.send(statement, (error, result) => {
        outcome = [error, result]
        if (!capture) done()
      })
    }
    if (!capture) return send()
    client.together(() => {
      send()
      capturePosition(client, session, sink, done)
    })
  }
}

/** What `query` of a connection does that its borrower has given back. */
function refuse(...args: unknown[]): unknown {
  const callback = args.find((one) => typeof one === 'function') as AnyCallback | undefined
  if (!callback) return Promise.reject(new ReleasedError())
  process.nextTick(callback, new ReleasedError())
  return undefined
}

function normalize(
  client: RouterClient,
  config: unknown,
  values: unknown
): Statement & { callback?: unknown } {
  const statement = (
    typeof config === 'string' ? { text: config } : { ...(config as object) }
  ) as Statement & {
    callback?: unknown
  }
  if (values !== undefined && typeof values !== 'function') statement.values = values as never
  // A pooler may hand a named statement to a session that never prepared it.
  if (client.pooled) delete (statement as { name?: unknown }).name
  return statement
}
