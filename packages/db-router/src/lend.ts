import { Client, Query, type PoolClient, type QueryResult, type Submittable } from 'pg'
import { capturePosition, mayCommit, type PositionSink } from './capture.js'
import type { CausalSession } from './causal-session.js'
import { ReleasedError } from './errors.js'
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
  const { server, session, sink, explain } = lending
  const own = Client.prototype.query.bind(client) as (
    config: unknown,
    values?: unknown,
    callback?: unknown
  ) => unknown
  let uncaptured = false
  let inFlight = 0

  const wantsPosition = (text: string): boolean =>
    sink !== undefined &&
    (inFlight > 0
      ? mayCommit(text, 'I') || mayCommit(text, 'T')
      : mayCommit(text, client.getTransactionStatus()))

  const send = (statement: Statement, callback: StatementCallback): void => {
    const capture = wantsPosition(statement.text ?? '')
    inFlight++
    let outcome: Parameters<StatementCallback> | undefined
    const done = (): void => {
      inFlight--
      const [error, result] = outcome!
      callback(error && explain(error), result)
    }
    client.send(statement, (error, result) => {
      outcome = [error, result]
      if (!capture) done()
    })
    if (capture) capturePosition(client, session, sink!, done)
  }
  const lentQuery = (config: unknown, values?: unknown, callback?: unknown): unknown => {
    if (typeof (config as Submittable | null)?.submit === 'function') {
      uncaptured = true
      // A cursor keeps its portal open between round trips, which a pipeline can not.
      if (!(config instanceof Query)) client.pipeline = false
      return own(config, values, callback)
    }
    const statement = normalize(client, config, values)
    const done = (typeof values === 'function' ? values : (callback ?? statement.callback)) as
      | AnyCallback
      | undefined
    if (done) return send(statement, done)
    return new Promise((resolve, reject) => {
      send(statement, (error, result) => (error ? reject(error) : resolve(result)))
    })
  }

  let returned = false
  client.query = lentQuery as typeof client.query
  client.release = (error) => {
    if (returned) throw new ReleasedError()
    returned = true
    client.query = refuse as typeof client.query
    client.pipeline = true
    lending.returned()
    const failure = error === true ? new Error('Released to be dropped') : error || undefined
    if (!uncaptured || !sink || failure || client.broken) return server.pool.release(client, failure)
    // What a cursor or COPY did was not followed: ask now, and let this author's reads wait for the answer.
    session.settle(
      new Promise<void>((resolve) => {
        capturePosition(client, session, sink, () => {
          server.pool.release(client)
          resolve()
        })
      })
    )
  }
  return client
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
