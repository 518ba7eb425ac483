import { test } from 'tap'
import {
  startApp,
  startFeed,
  startHAProxy,
  startMixedLoad,
  startNginx,
  startRedis,
  until,
  type AppInstance
} from '@flotilla/testbed'
import { listenTo } from './listen.js'
import type { HealthOptions } from '../src/index.js'

const script = new URL('./apps/instance.ts', import.meta.url)

test('a rolling restart of three instances under mixed load loses nothing, through nginx and HAProxy', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const options: HealthOptions = {
    agent: { port: 0, host: '127.0.0.1' },
    header: true,
    drain: { delay: '2s', timeout: '10s' },
    fleet: { lease: '3s' }
  }
  const fleet = await startApp({
    script,
    instances: 3,
    env: { HEALTH: JSON.stringify(options), REDIS_URL: redis.url, BROADCAST: '1', LOG_LEVEL: 'warn' }
  })
  t.teardown(() => fleet.stop())
  const agentPorts = await Promise.all(fleet.instances.map(agentPort))
  const servers = fleet.instances.map(({ host, port }, index) => ({
    host,
    port,
    agentPort: agentPorts[index]!
  }))
  const balancers = await Promise.all([startNginx({ servers }), startHAProxy({ servers })])
  t.teardown(() => Promise.all(balancers.map((balancer) => balancer.stop())))
  for (const { url } of balancers) await until(async () => (await fetch(url)).ok)

  const loads = balancers.map(({ url }) => startMixedLoad({ url }))
  const feeds = balancers.map(({ url }, index) => {
    const channel = `feed:${index}`
    return startFeed({ url, channel, listen: listenTo(url, channel) })
  })
  for (const [index, instance] of fleet.instances.entries()) {
    const env = {
      HEALTH: JSON.stringify({ ...options, agent: { port: agentPorts[index], host: '127.0.0.1' } })
    }
    await instance.restart(env)
    for (const { url } of balancers) {
      const back = async (): Promise<boolean> => {
        const answer = await fetch(url)
        return ((await answer.json()) as { pid: number }).pid === instance.pid
      }
      await until(back, { timeout: 30_000, message: `instance ${index + 1} is back in rotation` })
    }
  }
  for (const [index, name] of ['nginx', 'HAProxy'].entries()) {
    const { answered, failures, repeated } = await loads[index]!.stop()
    const feed = await feeds[index]!.stop()
    const { get, post, slow, upload } = answered
    t.ok(get > 100 && post > 100 && slow > 10 && upload > 10, `${name}: ${JSON.stringify(answered)}`)
    if (failures.length > 0) t.comment(balancers[index]!.output().replaceAll(/.*body is buffered.*\n/g, ''))
    t.strictSame(failures, [], `${name}: no request lost`)
    t.comment(`${name}: ${repeated} repeated, ${feed.published} messages, ${feed.reconnects} reconnects`)
    t.ok(
      feed.published > 50 && feed.reconnects > 0,
      `${name}: ${feed.published} messages over ${feed.reconnects} reconnects`
    )
    t.strictSame(feed.lost, [], `${name}: no message lost`)
    t.equal(feed.gaps, 0)
  }
})

async function agentPort(instance: AppInstance): Promise<number> {
  return (await instance.call<{ agent: number }>({ do: 'ports' })).agent
}
