import type { FastifyBaseLogger } from 'fastify'

/** What an {@link OutageLog} writes. */
export interface OutageLogOptions {
  /** What is away, as the subject of a sentence: `'the session store'`. */
  subject: string
  /** Time between two lines of the same cause, in milliseconds. Default one minute. */
  repeatMs?: number
  /** Time without a failure after which a success ends the outage, in milliseconds. Default 5 s. */
  quietMs?: number
  /** Bindings of every line. */
  fields?: Readonly<Record<string, unknown>>
  /** Milliseconds that never go backwards. Default `performance.now`. */
  now?: () => number
}

/** Causes remembered at a time: an outage has few, and one whose texts all differ must not fill the log. */
const MAX_CAUSES = 10

/**
 * Logs an outage, not each failure: one line when it starts, one for each further cause, one a minute while it lasts, and one
 * when it is over. Each says how many failures had no line of their own.
 *
 * ```
 *            failed(): "cannot be reached"             no failure for `quietMs`, then succeeded(): "is back"
 *   healthy ──────────────────────────────► outage ──────────────────────────────────────────────────────► healthy
 *                                           │    ▲
 *                                           └────┘ failed(): new cause, or a minute later
 * ```
 *
 * One server of several that fails while the others answer is one outage: it ends when nothing has failed for a while.
 */
export class OutageLog {
  readonly #log: FastifyBaseLogger
  readonly #subject: string
  readonly #repeatMs: number
  readonly #quietMs: number
  readonly #fields: Readonly<Record<string, unknown>>
  readonly #now: () => number
  /** When each cause was last logged. */
  readonly #logged = new Map<string, number>()
  #startedAt: number | undefined
  #failedAt = 0
  #failures = 0
  #unlogged = 0

  constructor(log: FastifyBaseLogger, options: OutageLogOptions) {
    const {
      subject,
      repeatMs = 60_000,
      quietMs = 5_000,
      fields = {},
      now = () => performance.now()
    } = options
    this.#log = log
    this.#subject = subject
    this.#repeatMs = repeatMs
    this.#quietMs = quietMs
    this.#fields = fields
    this.#now = now
  }

  /** Whether an outage lasts, as far as was reported. */
  get active(): boolean {
    return this.#startedAt !== undefined
  }

  /**
   * Reports a failure.
   *
   * @param error what the line shows: without the arguments of commands, which may be secret
   * @param fields go into the line
   */
  failed(error: unknown, fields: Readonly<Record<string, unknown>> = {}): void {
    const now = this.#now()
    const started = this.#startedAt === undefined
    this.#startedAt ??= now
    this.#failedAt = now
    this.#failures++
    const cause = causeOf(error)
    const loggedAt = this.#logged.get(cause)
    if (loggedAt !== undefined ? now - loggedAt < this.#repeatMs : !this.#remembers(now)) {
      this.#unlogged++
      return
    }
    this.#logged.set(cause, now)
    this.#log.warn(
      {
        ...this.#fields,
        ...fields,
        err: error,
        ...(!started && { durationMs: Math.round(now - this.#startedAt), unlogged: this.#unlogged })
      },
      `${this.#subject} cannot be reached`
    )
    this.#unlogged = 0
  }

  /** Reports a success. Costs next to nothing without an outage. */
  succeeded(): void {
    if (this.#startedAt === undefined) return
    const now = this.#now()
    if (now - this.#failedAt < this.#quietMs) return
    this.#log.info(
      {
        ...this.#fields,
        durationMs: Math.round(this.#failedAt - this.#startedAt),
        failures: this.#failures,
        unlogged: this.#unlogged
      },
      `${this.#subject} is back`
    )
    this.#startedAt = undefined
    this.#failures = this.#unlogged = 0
    this.#logged.clear()
  }

  /** Whether there is room for one more cause, once those logged more than a minute ago are forgotten. */
  #remembers(now: number): boolean {
    if (this.#logged.size < MAX_CAUSES) return true
    for (const [cause, at] of this.#logged) if (now - at >= this.#repeatMs) this.#logged.delete(cause)
    return this.#logged.size < MAX_CAUSES
  }
}

/** The code and the text of an error; its numbers are those of attempts, ports and times. */
function causeOf(error: unknown): string {
  if (!(error instanceof Error)) return typeof error
  const { code } = error as { code?: unknown }
  return `${typeof code === 'string' ? code : error.name}: ${error.message.replaceAll(/\d+/g, '#')}`
}
