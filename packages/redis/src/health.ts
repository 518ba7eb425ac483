import { joinHealth, type CheckReport } from '@flotilla/core'
import type { FastifyInstance } from 'fastify'
import type { BusSettings, FleetBus } from './bus.js'
import { isCluster, type RedisClient } from './redis-client.js'

/** How many instances of the plugin an app has; an app is known by its server, which all its encapsulated instances share. */
const instances = new WeakMap<object, number>()

/**
 * Resolves when Redis answers and, of a Cluster, when it serves commands: any node answers PING while the whole Cluster is down.
 *
 * @throws the error of Redis, or an `Error` that says that the Cluster is down.
 */
export async function checkRedis(client: RedisClient): Promise<void> {
  if (!isCluster(client)) return void (await client.ping())
  let info: string
  try {
    info = await client.cluster('INFO')
  } catch (error) {
    // An ACL may forbid CLUSTER.
    if (error instanceof Error && error.message.startsWith('NOPERM')) return void (await client.ping())
    throw error
  }
  const state = /^cluster_state:(\w+)/m.exec(info)?.[1]
  if (state !== 'ok') throw new Error(`CLUSTERDOWN: the state of the Cluster is '${state}'`)
}

/**
 * Adds two checks to `@flotilla/health`: `redis` asks for an answer, `bus` for proof that messages arrive. A pub/sub that has
 * died without a word fails it. Those of a second scope of the app are `redis-2` and `bus-2`, and so on.
 */
export function addChecks(
  fastify: FastifyInstance,
  client: RedisClient,
  bus: FleetBus,
  { probeInterval, probeTimeout }: BusSettings
): void {
  const count = (instances.get(fastify.server) ?? 0) + 1
  instances.set(fastify.server, count)
  const suffix = count === 1 ? '' : `-${count}`
  let asked = false
  const report = (): CheckReport => {
    const { active, connected, lastProbeAt, lastProbeMs, gaps } = bus.status()
    const age = lastProbeAt === undefined ? null : Date.now() - lastProbeAt
    const stale = age !== null && age > 2 * (probeInterval + probeTimeout)
    const ok = !active || (connected && !stale)
    const details = { active, connected, gaps, probeAgeMs: age, probeMs: lastProbeMs ?? null }
    return ok ? { ok, details } : { ok, details, message: 'messages between instances do not arrive' }
  }
  joinHealth(fastify, (health) => {
    health.addCheck(
      `redis${suffix}`,
      async () => {
        const started = performance.now()
        await checkRedis(client)
        return { details: { ms: Math.round((performance.now() - started) * 10) / 10, status: client.status } }
      },
      { scope: 'shared' }
    )
    health.addCheck(
      `bus${suffix}`,
      () => {
        const first = !asked
        asked = true
        // While the app starts, the connection is still being made: a failure now would count until several checks have passed.
        if (!first || report().ok) return report()
        return bus.ready().then(report, report)
      },
      { scope: 'shared' }
    )
  })
}
