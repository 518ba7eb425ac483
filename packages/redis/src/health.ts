import { joinHealth } from '@flotilla/core'
import type { FastifyInstance } from 'fastify'
import type { BusSettings, FleetBus } from './bus.js'
import type { RedisClient } from './redis-client.js'

/**
 * Adds two checks to `@flotilla/health`: `redis` asks for an answer, `bus` for proof that messages arrive. A pub/sub that has
 * died without a word fails it.
 */
export function addChecks(
  fastify: FastifyInstance,
  client: RedisClient,
  bus: FleetBus,
  { probeInterval, probeTimeout }: BusSettings
): void {
  joinHealth(fastify, (health) => {
    health.addCheck(
      'redis',
      async () => {
        const started = performance.now()
        await client.ping()
        return { details: { ms: Math.round((performance.now() - started) * 10) / 10, status: client.status } }
      },
      { scope: 'shared' }
    )
    health.addCheck(
      'bus',
      () => {
        const { active, connected, lastProbeAt, lastProbeMs, gaps } = bus.status()
        const age = lastProbeAt === undefined ? null : Date.now() - lastProbeAt
        const stale = age !== null && age > 2 * (probeInterval + probeTimeout)
        const ok = !active || (connected && !stale)
        const details = { active, connected, gaps, probeAgeMs: age, probeMs: lastProbeMs ?? null }
        return ok ? { ok, details } : { ok, details, message: 'messages between instances do not arrive' }
      },
      { scope: 'shared' }
    )
  })
}
