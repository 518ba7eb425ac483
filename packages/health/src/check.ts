import { formatDuration, parseDuration, type CheckFunction, type CheckOptions } from '@flotilla/core'
import { HealthCheckInvalidError, HealthCheckTimeoutError } from './errors.js'
import type { CheckSettings } from './options.js'

/** Options of one check; what is missing comes from the plugin's option `checks`. */
export interface HealthCheckOptions extends CheckOptions {
  /** Failures in a row before a check that passed counts as failing. */
  failures?: number
  /** Successes in a row before a check that failed counts as passing. */
  successes?: number
}

/** What is known of a check, for the details. */
export interface CheckSnapshot {
  /** `pending` until the first run has ended. */
  status: 'pending' | 'passing' | 'failing'
  /** What a failure means: not ready, ready but said so, shown only. */
  level: 'critical' | 'degraded' | 'info'
  /** Whose the dependency is: this instance's or the whole fleet's. */
  scope: 'local' | 'shared'
  /** Why the last run failed, or what the check had to say. */
  message?: string
  /** Figures that the check reported. */
  details?: Record<string, string | number | boolean | null>
  /** Milliseconds since the last run ended. */
  age?: number
  /** Milliseconds that the last run took. */
  duration?: number
  /** Milliseconds for which the last run held the event loop, where that is worth knowing. */
  blocked?: number
}

interface Verdict {
  ok: boolean
  message?: string | undefined
  details?: Record<string, string | number | boolean | null> | undefined
}

const LEVELS = ['critical', 'degraded', 'info'] as const
const SCOPES = ['local', 'shared'] as const
const BLOCKING = 50
const MAX_DETAILS = 32
const MAX_TEXT = 300

/**
 * One check with its schedule and its last result. Runs never overlap a probe: a probe reads `status`. A run
 * that hangs is abandoned at its timeout; while abandoned runs pile up, the interval grows, so that a check
 * that never settles costs a bounded and falling number of pending promises.
 */
export class Check {
  readonly level: 'critical' | 'degraded' | 'info'
  readonly scope: 'local' | 'shared'
  readonly interval: number
  readonly timeout: number
  status: CheckSnapshot['status'] = 'pending'
  /** `performance.now()` of the last change of status. */
  changedAt = performance.now()
  /** `performance.now()` at the start of the last run that has a result; 0 before the first. */
  askedAt = 0
  private readonly failures: number
  private readonly successes: number
  private inRow = 0
  private abandoned = 0
  private verdict: Verdict | undefined
  private endedAt = 0
  private duration = 0
  private blocked = 0
  private timer: NodeJS.Timeout | undefined
  private stopped = true
  private abort: AbortController | undefined

  constructor(
    readonly name: string,
    private readonly run: CheckFunction,
    options: HealthCheckOptions,
    private readonly defaults: CheckSettings,
    private readonly onResult: (check: Check, changed: boolean) => void
  ) {
    if (typeof name !== 'string' || name === '') throw invalid('', 'needs a name')
    if (typeof run !== 'function') throw invalid(name, 'needs a function to run')
    if (typeof options !== 'object' || options === null) throw invalid(name, 'needs options as an object')
    this.level = oneOf(name, 'level', options.level ?? 'critical', LEVELS)
    this.scope = oneOf(name, 'scope', options.scope ?? 'local', SCOPES)
    this.timeout = duration(name, 'timeout', options.timeout, defaults.timeout)
    this.interval = duration(name, 'interval', options.interval, defaults.interval)
    this.failures = count(name, 'failures', options.failures, defaults.failures)
    this.successes = count(name, 'successes', options.successes, defaults.successes)
  }

  start(): void {
    if (!this.stopped) return
    this.stopped = false
    void this.cycle()
  }

  stop(): void {
    this.stopped = true
    clearTimeout(this.timer)
    this.abort?.abort(new Error('the app is closing'))
  }

  snapshot(): CheckSnapshot {
    const { verdict } = this
    return {
      status: this.status,
      level: this.level,
      scope: this.scope,
      ...(verdict?.message === undefined ? {} : { message: verdict.message }),
      ...(verdict?.details === undefined ? {} : { details: verdict.details }),
      ...(this.endedAt === 0
        ? {}
        : { age: Math.round(performance.now() - this.endedAt), duration: Math.round(this.duration) }),
      ...(this.blocked < BLOCKING ? {} : { blocked: Math.round(this.blocked) })
    }
  }

  private async cycle(): Promise<void> {
    const started = performance.now()
    const verdict = await this.once(started)
    if (this.stopped) return
    this.askedAt = started
    this.endedAt = performance.now()
    this.duration = this.endedAt - started
    this.verdict = verdict
    this.onResult(this, this.settle(verdict.ok))
    const jitter = 1 + this.defaults.jitter * (Math.random() * 2 - 1)
    const backoff = Math.min(1 + this.abandoned, 10)
    this.timer = setTimeout(() => void this.cycle(), this.interval * jitter * backoff)
    this.timer.unref()
  }

  private async once(started: number): Promise<Verdict> {
    const abort = new AbortController()
    this.abort = abort
    let timer: NodeJS.Timeout | undefined
    try {
      const running = this.run({ signal: abort.signal })
      this.blocked = performance.now() - started
      if (!isThenable(running)) return judge(running)
      const late = Symbol('late')
      const result = await Promise.race([
        running,
        new Promise<typeof late>((resolve) => {
          timer = setTimeout(() => resolve(late), this.timeout)
          timer.unref()
        })
      ])
      if (result !== late) return judge(result)
      this.abandoned++
      const settled = (): number => this.abandoned--
      Promise.resolve(running).then(settled, settled)
      const error = new HealthCheckTimeoutError(this.name, formatDuration(this.timeout))
      abort.abort(error)
      return { ok: false, message: error.message }
    } catch (error) {
      return { ok: false, message: text(error instanceof Error ? error.message : error) }
    } finally {
      clearTimeout(timer)
    }
  }

  /** Hysteresis: true where the status changed. The first result always counts. */
  private settle(ok: boolean): boolean {
    const target = ok ? 'passing' : 'failing'
    if (this.status === target) {
      this.inRow = 0
      return false
    }
    this.inRow++
    if (this.status !== 'pending' && this.inRow < (ok ? this.successes : this.failures)) return false
    this.inRow = 0
    this.status = target
    this.changedAt = performance.now()
    return true
  }
}

/** Nothing and values that are not reports pass, except `false`; a report is checked and copied. */
function judge(result: unknown): Verdict {
  if (result === false) return { ok: false, message: 'the check returned false' }
  if (typeof result !== 'object' || result === null) return { ok: true }
  const { ok = true, message, details } = result as Record<string, unknown>
  if (typeof ok !== 'boolean')
    return { ok: false, message: "the check's report has an 'ok' that is no boolean" }
  return {
    ok,
    message: message === undefined ? undefined : text(message),
    details: typeof details === 'object' && details !== null ? figures(details) : undefined
  }
}

function figures(details: object): Record<string, string | number | boolean | null> {
  const kept: Record<string, string | number | boolean | null> = {}
  for (const [name, value] of Object.entries(details).slice(0, MAX_DETAILS)) {
    if (typeof value === 'number' || typeof value === 'boolean' || value === null) kept[name] = value
    else if (typeof value === 'string') kept[name] = text(value)
  }
  return kept
}

function text(value: unknown): string {
  const plain = typeof value === 'string' ? value : `not a text: ${typeof value}`
  return plain.length > MAX_TEXT ? `${plain.slice(0, MAX_TEXT)}…` : plain
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { then?: unknown } | null | undefined)?.then === 'function'
}

function invalid(name: string, what: string): Error {
  return new HealthCheckInvalidError(`check '${name}' ${what}`)
}

function oneOf<V extends string>(name: string, option: string, value: V, values: readonly V[]): V {
  if (!values.includes(value)) throw invalid(name, `needs '${option}' to be one of ${values.join(', ')}`)
  return value
}

function duration(name: string, option: string, value: unknown, fallback: number): number {
  const ms = value === undefined ? fallback : parseDuration(value)
  if (ms === undefined || ms < 1) throw invalid(name, `needs '${option}' to be a duration of at least 1 ms`)
  return ms
}

function count(name: string, option: string, value: number | undefined, fallback: number): number {
  const number = value ?? fallback
  if (!Number.isSafeInteger(number) || number < 1) throw invalid(name, `needs '${option}' to be 1 or more`)
  return number
}
