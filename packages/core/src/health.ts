import type { FastifyInstance } from 'fastify'
import type { Duration } from './duration.js'

/** Where an instance stands; only `ready` and `degraded` take traffic. */
export type HealthState = 'starting' | 'ready' | 'degraded' | 'draining' | 'down'

/** What a check is given. */
export interface CheckContext {
  /** Aborted when the check's `timeout` has passed. */
  readonly signal: AbortSignal
}

/** What a check may return to show in the details; throwing or rejecting fails it. */
export interface CheckReport {
  /** False fails the check without an exception. Default true. */
  readonly ok?: boolean
  /** A sentence for the reader of the details. */
  readonly message?: string
  /** Figures to show, by name: lag, connections, bytes. */
  readonly details?: Readonly<Record<string, string | number | boolean | null>>
}

/** Looks at one dependency; throwing, rejecting, `false` or `ok: false` says that it fails. */
export type CheckFunction = (
  context: CheckContext
) => CheckReport | boolean | void | Promise<CheckReport | boolean | void>

/** How often a check runs and what its failure means. */
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

/** What a drain step is given. */
export interface DrainContext {
  /** When the process ends whatever remains, in milliseconds of `Date.now()`. */
  readonly deadline: number
}

/** Called once when the instance goes away; the drain waits for it up to its deadline. */
export type DrainStep = (context: DrainContext) => void | Promise<void>

/** The part of `fastify.health` that sibling plugins use. */
export interface HealthRegistry {
  /** Where this instance stands. */
  readonly state: HealthState
  /** @throws FLOTILLA_HEALTH_ERR_DUPLICATE where the name is taken */
  addCheck(name: string, check: CheckFunction, options?: CheckOptions): void
  /** @throws FLOTILLA_HEALTH_ERR_DUPLICATE where the name is taken */
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
