import type { CheckFunction } from '@flotilla/core'
import { Check, type CheckSnapshot, type HealthCheckOptions } from './check.js'
import { HealthDuplicateError } from './errors.js'
import type { CheckSettings } from './options.js'

/** All checks of one app by name. */
export class CheckSet {
  private readonly checks = new Map<string, Check>()
  private started = false

  constructor(
    private readonly defaults: CheckSettings,
    private readonly onResult: (check: Check, changed: boolean) => void
  ) {}

  /** @throws FLOTILLA_HEALTH_ERR_DUPLICATE, FLOTILLA_HEALTH_ERR_CHECK_INVALID */
  add(name: string, run: CheckFunction, options: HealthCheckOptions): void {
    if (this.checks.has(name)) throw new HealthDuplicateError('check', name)
    const check = new Check(name, run, options, this.defaults, this.onResult)
    this.checks.set(name, check)
    if (this.started) check.start()
  }

  start(): void {
    this.started = true
    for (const check of this.checks.values()) check.start()
  }

  stop(): void {
    this.started = false
    for (const check of this.checks.values()) check.stop()
  }

  /** Whether a check that decides over readiness has not run yet. */
  get pending(): boolean {
    for (const check of this.checks.values()) {
      if (check.status === 'pending' && check.level === 'critical') return true
    }
    return false
  }

  *thatAre(status: CheckSnapshot['status']): Generator<Check> {
    for (const check of this.checks.values()) if (check.status === status) yield check
  }

  snapshot(): Record<string, CheckSnapshot> {
    const all: Record<string, CheckSnapshot> = {}
    for (const [name, check] of this.checks) all[name] = check.snapshot()
    return all
  }
}
