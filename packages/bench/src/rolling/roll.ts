import { createServer, type AddressInfo } from 'node:net'
import { once } from 'node:events'
import {
  startApp,
  startFeed,
  startHAProxy,
  startMixedLoad,
  startNginx,
  startRedis,
  until,
  type Balancer,
  type FeedReport,
  type LoadReport
} from '@flotilla/testbed'
import { listenTo } from './listen.js'

export const VARIANTS = ['flotilla', 'godaddy-terminus', 'fastify-close'] as const
export const BALANCERS = ['nginx', 'haproxy'] as const
export type Variant = (typeof VARIANTS)[number]
export type BalancerName = (typeof BALANCERS)[number]

export interface Roll {
  variant: Variant
  balancer: BalancerName
  load: LoadReport
  feed: FeedReport
  seconds: number
}

const app = new URL('./app.js', import.meta.url)

/** Restarts three instances one after the other under mixed load through one balancer. */
export async function roll(variant: Variant, balancer: BalancerName): Promise<Roll> {
  const began = performance.now()
  const redis = await startRedis()
  const agentPorts = variant === 'flotilla' ? await freePorts(3) : []
  const fleet = await startApp({
    script: app,
    instances: 3,
    env: (index) => ({
      VARIANT: variant,
      REDIS_URL: redis.url,
      NODE_ENV: 'production',
      AGENT_PORT: String(agentPorts[index] ?? 0)
    })
  })
  const servers = fleet.instances.map(({ host, port }, index) => {
    const agentPort = agentPorts[index]
    return agentPort === undefined ? { host, port } : { host, port, agentPort }
  })
  const front = await (balancer === 'nginx' ? startNginx({ servers }) : startHAProxy({ servers }))
  try {
    await until(async () => (await fetch(front.url)).ok)
    const load = startMixedLoad({ url: front.url })
    const feed = startFeed({ url: front.url, channel: 'feed:1', listen: listenTo(front.url, 'feed:1') })
    for (const instance of fleet.instances) {
      await instance.restart()
      await until(() => answers(front, instance.pid), { timeout: 30_000, message: 'it is back in rotation' })
    }
    const reports = { load: await load.stop(), feed: await feed.stop() }
    return { variant, balancer, ...reports, seconds: Math.round((performance.now() - began) / 1000) }
  } finally {
    await front.stop()
    await fleet.stop()
    await redis.stop()
  }
}

async function answers({ url }: Balancer, pid: number): Promise<boolean> {
  const answer = await fetch(url)
  return ((await answer.json()) as { pid?: number }).pid === pid
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'))
  await Promise.all(servers.map((server) => once(server, 'listening')))
  const ports = servers.map((server) => (server.address() as AddressInfo).port)
  await Promise.all(servers.map((server) => once(server.close(), 'close')))
  return ports
}
