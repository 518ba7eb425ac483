import { startPostgres, startRedis } from '@flotilla/testbed'
import type { ServerName } from './suite.js'

export interface Servers {
  readonly env: Readonly<Record<string, string>>
  stop(): Promise<void>
}

/** Starts what the suites ask for; every process gets the addresses in its environment. */
export async function startServers(names: ReadonlySet<ServerName>): Promise<Servers> {
  const env: Record<string, string> = {}
  const stops: (() => Promise<void>)[] = []
  const stop = async (): Promise<void> => {
    await Promise.all(stops.map((one) => one()))
  }
  try {
    if (names.has('redis')) {
      // The peers of the cache take host and port alone from this address so far.
      const redis = await startRedis({ password: false })
      stops.push(() => redis.stop())
      env['REDIS_URL'] = redis.url
    }
    if (names.has('postgres')) {
      const postgres = await startPostgres({ replicas: 2 })
      stops.push(() => postgres.stop())
      env['DATABASE_URL'] = postgres.primary.url
      env['DATABASE_REPLICA_URL'] = postgres.replicas[0]!.url
      env['DATABASE_SECOND_REPLICA_URL'] = postgres.replicas[1]!.url
    }
    return { env, stop }
  } catch (error) {
    await stop()
    throw error
  }
}
