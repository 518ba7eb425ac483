import { resolveBus, resolveRedis } from '@flotilla/redis'
import type { FastifyInstance } from 'fastify'
import { FleetRegistry } from './fleet-registry.js'
import type { FleetMember, InstanceReport } from './fleet-view.js'
import type { Parts } from './parts.js'

/**
 * Joins the fleet registry where there is Redis: by the option, or by a default `fastify.redis`. To be called
 * once all plugins are loaded, so that the order of `register` does not matter.
 */
export function joinFleet(fastify: FastifyInstance, parts: Parts): FleetRegistry | undefined {
  const { settings, identity, board, guard, log } = parts
  if (settings.fleet === false || settings.redis === false) return undefined
  if (settings.redis === undefined && !hasDefaultClient(fastify)) return undefined
  const client = resolveRedis(fastify, settings.redis, '@flotilla/health')
  const bus = resolveBus(fastify, client)
  identity.id = bus.instance

  const onBeat = (members: readonly FleetMember[], held: boolean): void => {
    guard.report(members.filter(({ id, state }) => id !== bus.instance && state !== 'lost'))
    board.flag('lease-lapsed', undefined)
    board.flag('fenced', held ? undefined : 'the fleet had given this instance up; waiting for a new lease')
    if (!held) log.warn('the fleet had given this instance up: out of rotation until the lease is renewed')
    board.update()
  }
  const onLapsed = (error: Error): void => {
    if (!board.has('lease-lapsed')) log.warn({ err: error }, 'no heartbeat was answered for a whole lease')
    // Nobody can give the lease back, and nobody else knows better: as all the others, it serves.
    board.flag('fenced', undefined)
    board.flag('lease-lapsed', 'the fleet registry does not answer')
  }
  const report = (): InstanceReport => reportOf(parts)
  return new FleetRegistry(client, bus, settings.fleet, report, { onBeat, onLapsed }, log)
}

function reportOf({ identity, board, checks, monitor, connections }: Parts): InstanceReport {
  const { delay, utilization, rss } = monitor.load
  const shared = (status: 'failing' | 'passing'): string[] =>
    [...checks.thatAre(status)].filter(({ scope }) => scope === 'shared').map(({ name }) => name)
  return {
    instance: identity.instance,
    version: identity.version,
    state: board.state,
    uptime: Math.floor(process.uptime()),
    load: { delay, utilization, rss, connections: connections.open },
    failing: shared('failing'),
    passing: shared('passing')
  }
}

function hasDefaultClient(fastify: FastifyInstance): boolean {
  const { redis } = fastify as unknown as { redis?: { duplicate?: unknown } }
  return typeof redis?.duplicate === 'function'
}
