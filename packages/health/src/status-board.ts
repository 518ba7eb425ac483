import type { HealthState } from '@flotilla/core'
import type { CheckSet } from './check-set.js'
import type { CorrelationGuard } from './correlation-guard.js'

/** Reasons to leave or limp, set and cleared by the parts that know. */
export type Flag = 'overloaded' | 'fenced' | 'maintenance' | 'lease-lapsed'

/** Flags that take the instance out of rotation; the others only degrade it. */
const OUT: ReadonlySet<Flag> = new Set<Flag>(['fenced', 'maintenance'])

/**
 * Decides the state from the phase of the process, the checks and the flags, and remembers the decision, so
 * that a probe only reads a field. Listeners hear of each change.
 */
export class StatusBoard {
  state: HealthState = 'starting'
  /** Why the state is not `ready`, for people. */
  reasons: readonly string[] = []
  /** Counts changes of anything that an answer shows, so that answers can be kept until it moves. */
  revision = 0
  /** True once the process serves and every critical check has run, whatever it found. */
  startedUp = false
  /** True from the first `ready` or `degraded` on: requests may have been sent here. */
  tookTraffic = false
  private phase: 'starting' | 'serving' | 'draining' = 'starting'
  private readonly flags = new Map<Flag, string>()
  private readonly listeners = new Set<(state: HealthState, before: HealthState) => void>()

  constructor(
    private readonly checks: CheckSet,
    private readonly guard: CorrelationGuard
  ) {}

  onChange(listener: (state: HealthState, before: HealthState) => void): void {
    this.listeners.add(listener)
  }

  serving(): void {
    if (this.phase !== 'starting') return
    this.phase = 'serving'
    this.update()
  }

  draining(): void {
    this.phase = 'draining'
    this.update()
  }

  /** A text sets the flag with its reason, `undefined` clears it. */
  flag(flag: Flag, reason: string | undefined): void {
    if (this.flags.get(flag) === reason) return
    if (reason === undefined) this.flags.delete(flag)
    else this.flags.set(flag, reason)
    this.update()
  }

  has(flag: Flag): boolean {
    return this.flags.has(flag)
  }

  update(): void {
    const before = this.state
    const reasons: string[] = []
    this.state = this.decide(reasons)
    this.reasons = reasons
    this.startedUp ||= this.phase === 'serving' && !this.checks.pending
    this.tookTraffic ||= this.state === 'ready' || this.state === 'degraded'
    this.revision++
    if (this.state === before) return
    for (const listener of this.listeners) listener(this.state, before)
  }

  private decide(reasons: string[]): HealthState {
    let out = false
    let limping = false
    for (const [flag, reason] of this.flags) {
      reasons.push(reason)
      if (OUT.has(flag)) out = true
      else limping = true
    }
    for (const check of this.checks.thatAre('failing')) {
      if (check.level === 'info') continue
      if (check.level === 'critical' && (check.scope === 'local' || this.guard.alone(check))) {
        out = true
        reasons.push(`check '${check.name}' fails`)
      } else {
        limping = true
        const spread = check.level === 'critical' ? ' here and elsewhere, or nobody can tell' : ''
        reasons.push(`check '${check.name}' fails${spread}`)
      }
    }
    if (this.phase === 'draining') return 'draining'
    if (this.phase === 'starting') return 'starting'
    if (out) return 'down'
    if (!this.startedUp && this.checks.pending) return 'starting'
    return limping ? 'degraded' : 'ready'
  }
}
