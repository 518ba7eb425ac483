import { startCluster } from './cluster.js'
import { startRedis } from './redis-server.js'
import { startSentinel } from './sentinel.js'

export type TopologyName = 'single' | 'sentinel' | 'cluster'

/** One Redis topology, running. */
export type Topology = { url: string } & (
  | { topology: 'single'; redis: Awaited<ReturnType<typeof startRedis>> }
  | { topology: 'sentinel'; redis: Awaited<ReturnType<typeof startSentinel>> }
  | { topology: 'cluster'; redis: Awaited<ReturnType<typeof startCluster>> }
)

/** What is needed of a tap test. */
interface TestLike<T> {
  test(name: string, body: (t: T) => Promise<void>): unknown
}

/** Runs the same subtest on a single server, behind Sentinel and on a Cluster, each started for it alone. */
export async function onEachTopology<T extends TestLike<T>>(
  t: TestLike<T>,
  body: (t: T, topology: Topology) => Promise<void>,
  { topologies = ['single', 'sentinel', 'cluster'] }: { topologies?: readonly TopologyName[] } = {}
): Promise<void> {
  for (const name of topologies) {
    await t.test(name, async (child) => {
      const topology = await startTopology(name)
      try {
        await body(child, topology)
      } finally {
        await topology.redis.stop()
      }
    })
  }
}

/** Starts one topology with the testbed's defaults. */
export async function startTopology(name: TopologyName): Promise<Topology> {
  if (name === 'single') {
    const redis = await startRedis()
    return { topology: 'single', redis, url: redis.url }
  }
  if (name === 'sentinel') {
    const redis = await startSentinel()
    return { topology: 'sentinel', redis, url: redis.url }
  }
  const redis = await startCluster()
  return { topology: 'cluster', redis, url: redis.url }
}
