import { randomBytes } from 'node:crypto'
import {
  startApp,
  startNginx,
  startPostgres,
  startProxy,
  startSentinel,
  type AppFleet,
  type PostgresGroup,
  type SentinelGroup,
  type TcpProxy
} from '@flotilla/testbed'

export interface SoakFleet {
  readonly url: string
  readonly apps: AppFleet
  readonly postgres: PostgresGroup
  /** One in front of each replica, so that it can be partitioned from the instances. */
  readonly proxies: readonly TcpProxy[]
  readonly sentinel: SentinelGroup
  /** For each instance, the proxies in front of the Redis servers through which it alone goes. */
  readonly redisWays: readonly (readonly TcpProxy[])[]
  stop(): Promise<void>
}

/** Redis under Sentinel, PostgreSQL with two replicas of which one must have each commit, three instances, nginx. */
export async function startSoakFleet(instances: number, broken: string): Promise<SoakFleet> {
  const stops: (() => Promise<unknown>)[] = []
  const stop = async (): Promise<void> => {
    for (const one of stops.splice(0).toReversed()) await one()
  }
  const own = <T extends { stop(): Promise<unknown> }>(started: T): T => {
    stops.push(() => started.stop())
    return started
  }
  try {
    const [sentinel, postgres] = await Promise.all([
      startSentinel({}).then(own),
      // A commit is acknowledged once a replica has it: what is promoted has every acknowledged write.
      startPostgres({ replicas: 2, settings: { synchronous_standby_names: 'ANY 1 (*)' } }).then(own)
    ])
    await postgres.primary.query('CREATE TABLE entries (lane text, n int, PRIMARY KEY (lane, n))')
    const proxies = await Promise.all(
      postgres.replicas.map(async ({ host, port }) => own(await startProxy({ host, port })))
    )
    const redisWays = await Promise.all(
      Array.from({ length: instances }, () =>
        Promise.all(sentinel.servers.map(async (server) => own(await startProxy(server))))
      )
    )
    const secret = randomBytes(32).toString('hex')
    const apps = own(
      await startApp({
        script: new URL('./app.js', import.meta.url),
        instances,
        nodeArgs: ['--expose-gc'],
        env: (index) => ({
          HOSTNAME: `app-${index + 1}`,
          NODE_ENV: 'production',
          REDIS_URL: sentinel.url,
          REDIS_NAT: JSON.stringify(natMapOf(redisWays[index]!)),
          DATABASE_URL: postgres.primary.url,
          DATABASE_REPLICA_URL: postgres.replicas.map(({ url }, at) => proxies[at]!.through(url)).join(','),
          SESSION_SECRET: secret,
          SOAK_BREAK: broken
        })
      })
    )
    const balancer = own(await startNginx({ servers: apps.instances }))
    return { url: balancer.url, apps, postgres, proxies, sentinel, redisWays, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** What Sentinel says of each server, and where to go instead. */
function natMapOf(ways: readonly TcpProxy[]): Record<string, { host: string; port: number }> {
  return Object.fromEntries(
    ways.map(({ target, host, port }) => [`${target.host}:${target.port}`, { host, port }])
  )
}
