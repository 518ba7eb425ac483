import { setTimeout as sleep } from 'node:timers/promises'
import type { SoakFleet } from './fleet.js'
import type { FaultName, PlannedFault } from './plan.js'

type Perform = (fleet: SoakFleet, fault: PlannedFault) => Promise<void>

const instanceOf = ({ apps }: SoakFleet, { target }: PlannedFault) =>
  apps.instances[target % apps.instances.length]!

/** Replicas that still are replicas, with the proxy before each. */
function replicaOf({ postgres, proxies }: SoakFleet, { target }: PlannedFault) {
  const alive = postgres.replicas.map((replica, at) => ({ replica, proxy: proxies[at]! }))
  const left = alive.filter(({ replica }) => replica !== promoted.get(postgres))
  return left[target % left.length]!
}
const promoted = new WeakMap<object, object>()

/** How each fault is done and mended; resolves when everything is up again. */
export const perform: Record<FaultName, Perform> = {
  async 'kill-instance'(fleet, fault) {
    const instance = instanceOf(fleet, fault)
    await instance.kill()
    await sleep(fault.duration)
    await instance.restart()
  },
  async 'pause-instance'(fleet, fault) {
    const instance = instanceOf(fleet, fault)
    instance.pause()
    await sleep(fault.duration)
    instance.resume()
  },
  async 'partition-instance'({ redisWays }, { target, duration }) {
    const ways = redisWays[target % redisWays.length]!
    for (const way of ways) way.blackhole()
    await sleep(duration)
    await Promise.all(ways.map((way) => way.restore()))
  },
  async 'roll-instance'(fleet, fault) {
    await instanceOf(fleet, fault).restart()
  },
  async 'redis-failover'({ sentinel }) {
    const master = await sentinel.master()
    await master.kill()
    await sentinel.waitForFailover(master)
    await master.restart()
  },
  async 'redis-pause'({ sentinel }, { duration }) {
    const master = await sentinel.master()
    // Shorter than what Sentinel takes for dead: a hiccup, not a failover.
    master.pause()
    await sleep(Math.min(duration, 600))
    master.resume()
  },
  async 'replica-replay-pause'(fleet, fault) {
    const { replica } = replicaOf(fleet, fault)
    await replica.pauseReplay()
    await sleep(fault.duration)
    await replica.resumeReplay()
  },
  async 'replica-kill'(fleet, fault) {
    // With one replica left every commit would wait for it.
    if (promoted.has(fleet.postgres)) return
    const { replica } = replicaOf(fleet, fault)
    await replica.kill()
    await sleep(fault.duration)
    await replica.restart()
  },
  async 'replica-partition'(fleet, fault) {
    const { proxy } = replicaOf(fleet, fault)
    proxy.blackhole()
    await sleep(fault.duration)
    await proxy.restore()
  },
  async promotion({ postgres }) {
    const [first, second] = postgres.replicas
    await postgres.primary.kill()
    // The one that received more has every acknowledged commit.
    const received = async (replica: typeof first): Promise<string> => {
      const { rows } = await replica!.query(
        "SELECT lpad(split_part(l, '/', 1), 8, '0') || lpad(split_part(l, '/', 2), 8, '0') AS l FROM (SELECT pg_last_wal_receive_lsn()::text AS l) x"
      )
      return String(rows[0]?.['l'])
    }
    const firstIsAhead = (await received(first)) >= (await received(second))
    const [next, other] = firstIsAhead ? [first!, second!] : [second!, first!]
    promoted.set(postgres, next)
    await next.promote()
    await other.follow(next)
    await other.waitForStreaming()
  }
}
