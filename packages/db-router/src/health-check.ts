import { joinHealth } from '@flotilla/core'
import type { FastifyInstance } from 'fastify'
import type { Settings } from './options.js'
import type { Topology } from './topology.js'

/** Adds `db`, `db-primary` and `db-replicas` to `@flotilla/health`. They look at what the monitor saw and ask nothing. */
export function addHealthChecks(
  fastify: FastifyInstance,
  topology: Topology,
  { name, replicas }: Pick<Settings, 'name' | 'replicas'>
): void {
  joinHealth(fastify, (health) => {
    // Without a primary reads go on, so no instance should be taken out of rotation for it.
    health.addCheck(
      `${name}-primary`,
      () => {
        const { primary } = topology
        if (!primary) return { ok: false, message: 'no primary takes writes' }
        return {
          details: { server: primary.name, inFlight: primary.inFlight, waiting: primary.pool.waiting }
        }
      },
      { level: 'degraded', scope: 'shared' }
    )
    health.addCheck(
      name,
      () => {
        const now = performance.now()
        const readable = topology.servers.some(
          (one) => one === topology.primary || topology.readable(one, now)
        )
        return readable ? { ok: true } : { ok: false, message: 'no server answers' }
      },
      { level: 'critical', scope: 'shared' }
    )
    if (replicas.length === 0) return
    health.addCheck(
      `${name}-replicas`,
      () => {
        const now = performance.now()
        const able = topology.servers.filter((one) => topology.readable(one, now))
        const lag = Math.max(0, ...able.map((one) => one.lag))
        return {
          ok: able.length > 0,
          details: { usable: able.length, listed: replicas.length, lag: Math.round(lag) }
        }
      },
      { level: 'degraded', scope: 'shared' }
    )
  })
}
