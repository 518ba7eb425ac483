import type { Socket } from 'node:net'
import type pg from 'pg'
import {
  describePart,
  observationQuery,
  partNames,
  partQuery,
  readObservation,
  type Observation,
  type PartName
} from './observation.js'
import { parseLsn, type Lsn } from './lsn.js'
import { RouterClient, type Statement } from './router-client.js'
import { codeOf, endsConnection, isCancelled, isRefusal, isServerError } from './sqlstate.js'

export interface MonitorSettings {
  /** Time between two looks, in milliseconds. */
  interval: number
  /** How long an answer may take, in milliseconds. */
  timeout: number
}

/** Through a VIP, an old connection would go on showing the server that once answered there. */
const RECONNECT_AFTER = 30_000

const PROBE: Statement = {
  text: 'select pg_last_wal_replay_lsn()::text /* flotilla: probe */',
  rowMode: 'array'
}

/** What a server refused to say, and what works no longer for it. */
export type Refused = (refusal: { name: string; lost: string; code: string | undefined }) => void

/** recovery is in progress, or is not: a promotion fell between two parts of a look. */
const WRONG_ROLE = '55000'

/** Looks at one server, on a connection of its own so that a busy pool never looks like a dead server. */
export class Monitor {
  readonly #config: pg.ClientConfig
  readonly #settings: MonitorSettings
  readonly #report: (observation: Observation | undefined, error?: Error) => void
  readonly #refusal: Refused
  /** What the server refused to say on this connection. */
  #refused = new Set<PartName>()
  /** What was reported as refused: each once. */
  readonly #reported = new Set<PartName>()
  /** Of the database, as the first look on this connection showed it. */
  #asynchronous: boolean | undefined
  #client: RouterClient | undefined
  /** When a connection was last asked for. */
  #renewedAt = 0
  #afresh = false
  #timer: NodeJS.Timeout | undefined
  #look: Promise<void> | undefined
  #probing: Promise<Lsn | undefined> | undefined
  #stopped = false

  /**
   * @param report gets each look's result: what was seen, or why nothing was
   * @param refusal gets each thing that the server refuses to say, once
   */
  constructor(
    config: pg.ClientConfig,
    settings: MonitorSettings,
    report: (observation: Observation | undefined, error?: Error) => void,
    refusal: Refused
  ) {
    this.#config = config
    this.#settings = settings
    this.#report = report
    this.#refusal = refusal
  }

  /** Looks now, or joins the look under way, and goes on looking at the interval. */
  look(): Promise<void> {
    if (this.#stopped) return Promise.resolve()
    this.#look ??= this.#lookOnce().finally(() => {
      this.#look = undefined
      if (this.#stopped) return
      clearTimeout(this.#timer)
      // Instances started together must not ask together.
      this.#timer = setTimeout(() => void this.look(), this.#settings.interval * (0.9 + Math.random() * 0.2))
      this.#timer.unref()
    })
    return this.#look
  }

  /**
   * {@link look} on a new connection, if there is news that the old one does not show. Not more often than looks are
   * due in any case: then it is the next one that brings a new connection along.
   */
  lookAfresh(): Promise<void> {
    this.#afresh = true
    return this.look()
  }

  /** The replica's replay position now; callers at the same time share one question. */
  probe(): Promise<Lsn | undefined> {
    this.#probing ??= this.#probeOnce().finally(() => {
      this.#probing = undefined
    })
    return this.#probing
  }

  async stop(): Promise<void> {
    this.#stopped = true
    clearTimeout(this.#timer)
    const client = this.#client
    this.#client = undefined
    client?.destroy(new Error('The monitor is stopped'))
    await this.#look
  }

  async #lookOnce(): Promise<void> {
    try {
      const client = await this.#connected()
      const observation = readObservation((await this.#observe(client)).rows[0] as unknown[])
      this.#asynchronous = observation.asynchronous
      this.#report(observation)
    } catch (error) {
      if (!this.#stopped) this.#report(undefined, error as Error)
    }
  }

  async #observe(client: RouterClient): Promise<pg.QueryResult> {
    const observe = (): Promise<pg.QueryResult> => {
      const text = observationQuery(client.backend.processId, this.#refused, this.#asynchronous)
      return this.#ask(client, { text, rowMode: 'array' })
    }
    try {
      return await observe()
    } catch (error) {
      if (!isAnswer(error) || !(await this.#findRefused(client))) throw error
      return await observe()
    }
  }

  /** Asks for each part alone; whether one more is refused than was known. */
  async #findRefused(client: RouterClient): Promise<boolean> {
    const before = this.#refused.size
    for (const name of partNames) {
      if (this.#refused.has(name)) continue
      try {
        await this.#ask(client, { text: partQuery(name) })
      } catch (error) {
        if (!isAnswer(error)) throw error
        this.#refused.add(name)
        if (!this.#reported.has(name)) this.#refusal({ ...describePart(name), code: codeOf(error) })
        this.#reported.add(name)
      }
    }
    return this.#refused.size > before
  }

  async #probeOnce(): Promise<Lsn | undefined> {
    // Without a connection a look makes one.
    if (this.#client?.broken !== false) await this.look()
    const client = this.#client
    if (client?.broken !== false) return undefined
    try {
      const result = await this.#ask(client, PROBE)
      return parseLsn((result.rows[0] as unknown as unknown[])[0])
    } catch {
      void this.look()
      return undefined
    }
  }

  async #connected(): Promise<RouterClient> {
    const current = this.#client?.broken ? undefined : this.#client
    const now = performance.now()
    const { interval } = this.#settings
    const lasts = this.#afresh ? Math.min(interval / 2, RECONNECT_AFTER) : RECONNECT_AFTER
    if (current && now - this.#renewedAt < lasts) return current
    this.#renewedAt = now
    this.#afresh = false
    try {
      const client = await this.#connect()
      retire(current)
      return client
    } catch (error) {
      // The old one goes on showing the server where that only has no place for another.
      if (current?.broken === false && isRefusal(error)) return current
      retire(current)
      throw error
    }
  }

  async #connect(): Promise<RouterClient> {
    const client = new RouterClient({ ...this.#config, connectionTimeoutMillis: this.#settings.timeout })
    await client.connect()
    if (this.#stopped) {
      client.destroy(new Error('The monitor is stopped'))
      throw new Error('The monitor is stopped')
    }
    client.once('end', () => {
      if (this.#client === client) this.#client = undefined
    })
    // What is granted may have changed, and behind a VIP the server.
    this.#refused = new Set()
    this.#asynchronous = undefined
    // Alone, the monitor must not keep the process from ending.
    ;(client.connection.stream as Socket).unref()
    this.#client = client
    return client
  }

  #ask(client: RouterClient, statement: Statement): Promise<pg.QueryResult> {
    return new Promise((resolve, reject) => {
      let answered = false
      const timer = setTimeout(() => {
        // A stalled event loop runs the timer before it reads an answer that is already here.
        setImmediate(() => {
          if (answered) return
          client.destroy(new Error(`No answer within ${this.#settings.timeout} ms`))
        })
      }, this.#settings.timeout)
      client.ask(statement, (error, result) => {
        answered = true
        clearTimeout(timer)
        if (!error) return resolve(result)
        // A promotion can fall between two parts of the query; the next look sees it whole.
        reject(error)
      })
    })
  }
}

/** Whether the server answered for good: neither did it end the connection, nor does its role or a cancel explain it. */
function isAnswer(error: unknown): boolean {
  return (
    isServerError(error) &&
    !isCancelled(error) &&
    codeOf(error) !== WRONG_ROLE &&
    endsConnection(error) !== true
  )
}

/** What was asked on it is answered first. */
function retire(client: RouterClient | undefined): void {
  client?.end().catch(() => {})
}
