import type { Test } from 'tap'
import { startApp, startRedis, type AppFleet, type AppInstance, type RedisServer } from '@flotilla/testbed'
import type { FleetView, HealthOptions } from '../src/index.js'

const script = new URL('./apps/instance.ts', import.meta.url)

/** Milliseconds. */
export const LEASE = 1200

export interface State {
  state: string
  reasons: string[]
  id: string
}

export const stateOf = (app: AppInstance): Promise<State> => app.call<State>({ do: 'state' })
export const fleetOf = (app: AppInstance): Promise<FleetView> => app.call<FleetView>({ do: 'fleet' })
export const states = (view: FleetView): string =>
  view.instances
    .map(({ state }) => state)
    .toSorted()
    .join()

export async function startFleet(
  t: Test,
  redis: RedisServer,
  instances: number,
  options: HealthOptions = {},
  { nodeArgs = [], env = {} }: { nodeArgs?: string[]; env?: Record<string, string> } = {}
): Promise<AppFleet> {
  const HEALTH = JSON.stringify({ fleet: { lease: LEASE }, drain: { delay: 0, timeout: 3000 }, ...options })
  const fleet = await startApp({ script, instances, nodeArgs, env: { HEALTH, REDIS_URL: redis.url, ...env } })
  t.teardown(() => fleet.stop())
  return fleet
}

/** `durable`: leases outlive a restart of Redis. */
export async function server(t: Test, durable = false): Promise<RedisServer> {
  const redis = await startRedis({ durable })
  t.teardown(() => redis.stop())
  return redis
}
