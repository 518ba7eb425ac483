import type { HealthState } from '@flotilla/core'
import type { CheckSnapshot } from './check.js'
import type { Identity } from './identity.js'
import type { StatusBoard } from './status-board.js'

/** A whole response: what Fastify's routes, the admin port and HEAD all send. */
export interface Answer {
  status: number
  type: string
  body: string
}

/** Figures that only details show. */
export interface Details {
  state: HealthState
  id: string
  reasons: readonly string[]
  checks: Record<string, CheckSnapshot>
  memory: { rss: number; heapUsed: number; heapTotal: number }
  eventLoop: { delay: number; utilization: number }
  connections: { open: number; requests: number }
}

export type ProbeName = 'health' | 'live' | 'ready' | 'startup'

export const JSON_TYPE = 'application/json; charset=utf-8'
const HEALTH_JSON_TYPE = 'application/health+json; charset=utf-8'

const WORDS: Record<HealthState, string> = {
  starting: 'starting',
  ready: 'healthy',
  degraded: 'degraded',
  draining: 'draining',
  down: 'unhealthy'
}

/** The words of the health+json draft (draft-inadarei-api-health-check-06, §3.1). */
const DRAFT_WORDS: Record<HealthState, 'pass' | 'warn' | 'fail'> = {
  starting: 'fail',
  ready: 'pass',
  degraded: 'warn',
  draining: 'fail',
  down: 'fail'
}

const DRAFT_CHECK = { pending: 'warn', passing: 'pass', failing: 'fail' } as const

/**
 * Makes the answers of the probes. The plain ones are kept until the state moves or a second of uptime has
 * gone by, so ten thousand probes a second build one text.
 */
export class Answers {
  private readonly kept = new Map<ProbeName, Answer>()
  private second = -1
  private revision = -1

  constructor(
    private readonly identity: Identity,
    private readonly board: StatusBoard,
    private readonly details: () => Details
  ) {}

  /** The guide's JSON: status, instance, version, uptime in whole seconds. */
  plain(probe: ProbeName): Answer {
    const second = Math.floor(process.uptime())
    if (second !== this.second || this.board.revision !== this.revision) {
      this.kept.clear()
      this.second = second
      this.revision = this.board.revision
    }
    let answer = this.kept.get(probe)
    if (answer === undefined) {
      answer = this.make(probe, JSON_TYPE, this.basics(probe, second))
      this.kept.set(probe, answer)
    }
    return answer
  }

  /** The plain answer and everything that is known. */
  detailed(probe: ProbeName): Answer {
    const basics = this.basics(probe, Math.floor(process.uptime()))
    return this.make(probe, JSON_TYPE, { ...basics, ...this.details() })
  }

  /** `application/health+json`. */
  draft(probe: ProbeName, withDetails: boolean): Answer {
    const { instance, version } = this.identity
    const { state } = this.board
    const body = {
      status: probe === 'live' ? 'pass' : DRAFT_WORDS[state],
      version,
      releaseId: version,
      serviceId: instance,
      description: `${instance} is ${state}`,
      ...(withDetails ? { output: this.board.reasons.join('; '), checks: this.draftChecks() } : {})
    }
    return this.make(probe, HEALTH_JSON_TYPE, body)
  }

  private draftChecks(): Record<string, object[]> {
    const { checks, memory, eventLoop } = this.details()
    const time = new Date().toISOString()
    const all: Record<string, object[]> = {
      'process:uptime': [
        { componentType: 'system', observedValue: process.uptime(), observedUnit: 's', status: 'pass', time }
      ],
      'memory:rss': [
        { componentType: 'system', observedValue: memory.rss, observedUnit: 'bytes', status: 'pass', time }
      ],
      'eventLoop:delay': [
        { componentType: 'system', observedValue: eventLoop.delay, observedUnit: 'ms', status: 'pass', time }
      ]
    }
    for (const [name, check] of Object.entries(checks)) {
      all[name] = [
        {
          componentType: check.scope === 'shared' ? 'datastore' : 'component',
          status: DRAFT_CHECK[check.status],
          time: new Date(Date.now() - (check.age ?? 0)).toISOString(),
          ...(check.duration === undefined ? {} : { observedValue: check.duration, observedUnit: 'ms' }),
          ...(check.message === undefined ? {} : { output: check.message })
        }
      ]
    }
    return all
  }

  private basics(probe: ProbeName, uptime: number) {
    const { instance, version } = this.identity
    const status = probe === 'live' ? 'healthy' : this.word(probe)
    return { status, instance, version, uptime }
  }

  private word(probe: ProbeName): string {
    if (probe === 'startup') return this.board.startedUp ? 'healthy' : 'starting'
    return WORDS[this.board.state]
  }

  private make(probe: ProbeName, type: string, body: object): Answer {
    return { status: this.passes(probe) ? 200 : 503, type, body: JSON.stringify(body) }
  }

  private passes(probe: ProbeName): boolean {
    if (probe === 'live') return true
    if (probe === 'startup') return this.board.startedUp
    return this.board.state === 'ready' || this.board.state === 'degraded'
  }
}
