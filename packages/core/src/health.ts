import type { FastifyInstance } from 'fastify'
import type { Duration } from './duration.js'

/** Where an instance stands; only `ready` and `degraded` take traffic. */
export type HealthState = 'starting' | 'ready' | 'degraded' | 'draining' | 'down'

export interface CheckContext {
  /** Aborted when the check's `timeout` has passed. */
  readonly signal: AbortSignal
}

/** What a check may return to show in the details; throwing or rejecting fails it. */
export interface CheckReport {
  /** False fails the check without an exception. Default true. */
  readonly ok?: boolean
  readonly message?: string
  /** Figures to show, by name: lag, connections, bytes. */
  readonly details?: Readonly<Record<string, string | number | boolean | null>>
}

export type CheckFunction = (context: CheckContext) => CheckReport | void | Promise<CheckReport | void>

export interface CheckOptions {
  /** How long one run may take. */
  timeout?: Duration
  /** Time between runs; probes never run a check themselves. */
  interval?: Duration
  /** What a failure means: `critical` not ready, `degraded` ready but said so, `info` shown only. */
  level?: 'critical' | 'degraded' | 'info'
  /** `shared`: a dependency of the whole fleet, whose failure must not take every instance out at once. */
  scope?: 'local' | 'shared'
}

export interface DrainContext {
  /** When the process ends whatever remains, in milliseconds of `Date.now()`. */
  readonly deadline: number
}

export type DrainStep = (context: DrainContext) => void | Promise<void>

/** The part of `fastify.health` that sibling plugins use. */
export interface HealthRegistry {
  readonly state: HealthState
  addCheck(name: string, check: CheckFunction, options?: CheckOptions): void
  onDrain(name: string, step: DrainStep): void
}

/**
 * Calls `join` with `fastify.health` once all plugins are loaded, if it is there: the order of `register`
 * does not matter, and an app without `@flotilla/health` pays nothing.
 */
export function joinHealth(fastify: FastifyInstance, join: (health: HealthRegistry) => void): void {
  fastify.addHook('onReady', async () => {
    const { health } = fastify as unknown as { health?: HealthRegistry }
    if (health && typeof health.addCheck === 'function') join(health)
  })
}
