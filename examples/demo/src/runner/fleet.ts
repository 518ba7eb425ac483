import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:net'
import {
  startApp,
  startCluster,
  startHAProxy,
  startNginx,
  startPostgres,
  startProxy,
  startRedis,
  startSentinel,
  type AppFleet,
  type PostgresGroup,
  type SentinelGroup,
  type TcpProxy
} from '@flotilla/testbed'
import type { Command } from './command-line.js'
import { nameOf, startControl } from './control.js'
import { DemoError } from './errors.js'
import { step } from './progress.js'

export interface Fleet {
  /** What visitors open: the load balancer. */
  readonly url: string
  readonly apps: AppFleet
  readonly postgres: PostgresGroup
  /** Between the instances and a single Redis, so that it can be cut off. */
  readonly redisProxy: TcpProxy | undefined
  /** What the instances are given. */
  readonly redisUrl: string
  readonly sentinel: SentinelGroup | undefined
  readonly balancer: 'nginx' | 'haproxy'
  /** The end of what the balancer wrote. */
  balancerOutput(): string
  stop(): Promise<void>
}

type Settings = Pick<Command, 'balancer' | 'port' | 'redis' | 'instances'>

/** Starts Redis, PostgreSQL with a replica, the instances and the load balancer; all of it or nothing. */
export async function startFleet(settings: Settings): Promise<Fleet> {
  const stops: (() => Promise<unknown>)[] = []
  const stop = async (): Promise<void> => {
    // Last started, first stopped: no instance sees its database go first.
    for (const one of stops.splice(0).toReversed()) await one()
  }
  const own = <T extends { stop(): Promise<unknown> }>(started: T): T => {
    stops.push(() => started.stop())
    return started
  }
  try {
    if (settings.port !== 0) await assertFree(settings.port)
    const [redis, postgres] = await Promise.all([
      step(`Redis (${settings.redis})`, () => startRedisKind(settings.redis, own)),
      step('PostgreSQL: primary and replica', async () => own(await startPostgres({ replicas: 1 })))
    ])
    const control = own(await startControl())
    const secret = randomBytes(32).toString('base64url')
    const apps = await step(`${settings.instances} instances`, async () =>
      own(
        await startApp({
          script: new URL('../server.js', import.meta.url),
          instances: settings.instances,
          env: (index) => ({
            HOSTNAME: nameOf(index),
            APP_VERSION: process.env['APP_VERSION'] ?? '1.0.0',
            NODE_ENV: 'production',
            REDIS_URL: redis.url,
            DATABASE_URL: postgres.primary.url,
            DATABASE_REPLICA_URL: postgres.replicas.map(({ url }) => url).join(','),
            SESSION_SECRET: secret,
            DEMO_FAULT: process.env['DEMO_FAULT'] ?? '',
            DEMO_CONTROL_URL: control.url
          })
        })
      )
    )
    const start = settings.balancer === 'haproxy' ? startHAProxy : startNginx
    const balancer = await step(settings.balancer === 'haproxy' ? 'HAProxy' : 'nginx', async () =>
      own(await start({ servers: apps.instances, ...(settings.port !== 0 && { port: settings.port }) }))
    )
    const fleet: Fleet = {
      url: balancer.url,
      apps,
      postgres,
      redisProxy: redis.proxy,
      redisUrl: redis.url,
      sentinel: redis.sentinel,
      balancer: settings.balancer,
      balancerOutput: () => balancer.output(),
      stop
    }
    control.operate(fleet)
    return fleet
  } catch (error) {
    await stop()
    throw error
  }
}

async function startRedisKind(
  kind: Settings['redis'],
  own: <T extends { stop(): Promise<unknown> }>(started: T) => T
): Promise<{ url: string; proxy?: TcpProxy; sentinel?: SentinelGroup }> {
  if (kind === 'cluster') return { url: own(await startCluster({})).url }
  if (kind === 'sentinel') {
    const sentinel = own(await startSentinel({}))
    return { url: sentinel.url, sentinel }
  }
  const { host, port, url } = yourRedis() ?? own(await startRedis())
  const proxy = own(await startProxy({ host, port }))
  return { url: proxy.through(url), proxy }
}

/** A Redis that runs already, named by REDIS_URL: the demo then starts none. @throws DEMO_ERR_REDIS_URL */
function yourRedis(): { host: string; port: number; url: string } | undefined {
  const url = process.env['REDIS_URL']
  if (!url) return undefined
  if (!URL.canParse(url) || new URL(url).protocol !== 'redis:') {
    throw new DemoError(
      'DEMO_ERR_REDIS_URL',
      'REDIS_URL must name one server, as in redis://user:password@host:6379/0; unset it to have one started'
    )
  }
  const { hostname, port } = new URL(url)
  return { host: hostname, port: Number(port || 6379), url }
}

/** @throws DEMO_ERR_PORT_BUSY before anything was started */
async function assertFree(port: number): Promise<void> {
  const probe = createServer()
  try {
    probe.listen(port, '127.0.0.1')
    await once(probe, 'listening')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const why = code === 'EACCES' ? 'needs more rights than you have' : 'is in use'
    throw new DemoError('DEMO_ERR_PORT_BUSY', `port ${port} ${why}; give another one with --port`, error)
  }
  probe.close()
  await once(probe, 'close')
}
