import type { CheckFunction, DrainStep, HealthRegistry } from '@flotilla/core'
import type { Registry } from 'prom-client'
import type { HealthCheckOptions } from './check.js'
import { HealthNoFleetError } from './errors.js'
import type { FleetView } from './fleet-view.js'
import type { Parts } from './parts.js'

/** `fastify.health`. */
export interface FlotillaHealth extends HealthRegistry {
  /** The name shown for this instance. */
  readonly instance: string
  /** Unique for each start of the process; the same as `fastify.bus.instance` where there is a bus. */
  readonly id: string
  /** The app's version. */
  readonly version: string
  /** Why the state is not `ready`, for people. */
  readonly reasons: readonly string[]
  /** The prom-client registry that `/metrics` serves, where metrics are on. */
  readonly metrics: Registry | undefined
  /** Ports that were opened besides the app's, once it is ready. */
  readonly ports: Readonly<Partial<Record<'admin' | 'agent' | 'worker' | 'workerAgent', number>>>
  /**
   * Runs `check` in the background from now on.
   * @throws FLOTILLA_HEALTH_ERR_DUPLICATE, FLOTILLA_HEALTH_ERR_CHECK_INVALID
   */
  addCheck(name: string, check: CheckFunction, options?: HealthCheckOptions): void
  /**
   * Runs `step` during the drain, once balancers have noticed and before requests are refused; all steps run
   * at the same time.
   * @throws FLOTILLA_HEALTH_ERR_DUPLICATE, FLOTILLA_HEALTH_ERR_CHECK_INVALID
   */
  onDrain(name: string, step: DrainStep): void
  /**
   * Runs the drain sequence, ends with the app closed, and never exits the process. A second call joins
   * the first. False where something had to be cut at the deadline.
   */
  drain(): Promise<boolean>
  /** Takes the instance out of rotation (`true`) and back, without closing anything. */
  maintenance(on: boolean): void
  /** Who is in the fleet. @throws FLOTILLA_HEALTH_ERR_NO_FLEET */
  fleet(): Promise<FleetView>
}

declare module 'fastify' {
  interface FastifyInstance {
    health: FlotillaHealth
  }
}

/** The decorator: what an app and its plugins may ask of the parts. */
export function createHealth(parts: Parts): FlotillaHealth {
  const { board, checks, drain, identity, metrics, ports } = parts
  return {
    instance: identity.instance,
    version: identity.version,
    metrics: metrics?.registry,
    ports: ports.numbers,
    get id() {
      return identity.id
    },
    get state() {
      return board.state
    },
    get reasons() {
      return board.reasons
    },
    addCheck: (name, check, options = {}) => checks.add(name, check, options),
    onDrain: (name, step) => drain.add(name, step),
    drain: () => drain.run('drain()'),
    maintenance: (on) => board.flag('maintenance', on ? 'in maintenance' : undefined),
    fleet: async () => {
      if (parts.fleet === undefined) throw new HealthNoFleetError()
      return parts.fleet.view()
    }
  }
}
