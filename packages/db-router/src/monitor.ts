import type { Socket } from 'node:net'
import type pg from 'pg'
import { observationQuery, readObservation, type Observation } from './observation.js'
import { parseLsn, type Lsn } from './lsn.js'
import { RouterClient, type Statement } from './router-client.js'
import { isRefusal } from './sqlstate.js'

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

/** Looks at one server, on a connection of its own so that a busy pool never looks like a dead server. */
export class Monitor {
  readonly #config: pg.ClientConfig
  readonly #settings: MonitorSettings
  readonly #report: (observation: Observation | undefined, error?: Error) => void
  #client: RouterClient | undefined
  /** When a connection was last asked for. */
  #renewedAt = 0
  #afresh = false
  #timer: NodeJS.Timeout | undefined
  #look: Promise<void> | undefined
  #probing: Promise<Lsn | undefined> | undefined
  #stopped = false

  /** @param report gets each look's result: what was seen, or why nothing was */
  constructor(
    config: pg.ClientConfig,
    settings: MonitorSettings,
    report: (observation: Observation | undefined, error?: Error) => void
  ) {
    this.#config = config
    this.#settings = settings
    this.#report = report
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
   * {@link look} on a new connection, where there is news that the old one does not show. Not more often than looks are
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
      const result = await this.#ask(client, {
        text: observationQuery(client.backend.processId),
        rowMode: 'array'
      })
      this.#report(readObservation(result.rows[0] as unknown[]))
    } catch (error) {
      if (!this.#stopped) this.#report(undefined, error as Error)
    }
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
      client.send(statement, (error, result) => {
        answered = true
        clearTimeout(timer)
        if (!error) return resolve(result)
        // A promotion can fall between two parts of the query; the next look sees it whole.
        reject(error)
      })
    })
  }
}

/** What was asked on it is answered first. */
function retire(client: RouterClient | undefined): void {
  client?.end().catch(() => {})
}
