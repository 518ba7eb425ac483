import { parseDuration, type Duration } from '@flotilla/core'
import { ANY_NODE } from './dedicated-connection.js'
import { RedisNotDurableError, RedisOptionsError } from './errors.js'
import { durability } from './channels.js'
import { addressOf, isCluster, keyPrefixOf, type RedisClient } from './redis-client.js'
import { ReplicaWait } from './replica-wait.js'
import { slotOf } from './slots.js'

/** Which write to wait for, and how long. */
export interface WaitForReplicasOptions {
  /** A key of the write, which tells the node on a Cluster. */
  key: string
  /** How many replicas must have the write, at least 1. */
  replicas: number
  /** How long to wait for them in all: milliseconds or a string such as `'100ms'`. */
  timeout: Duration
}

const MAX_HOPS = 3

const waits = new WeakMap<RedisClient, Map<string, ReplicaWait>>()

/**
 * Resolves when that many replicas hold what this process has written to the node of `key`. Call it right after
 * the write was acknowledged. A failover then loses the write only if Redis promotes a replica that is not one of
 * those (see WAIT in the documentation of Redis).
 *
 * Under Sentinel a master that has been replaced, or is being replaced, counts for nothing, whoever confirms: it does
 * not know yet, and its replicas neither.
 *
 * It does not hold up the shared connection as WAIT would: a connection of its own, opened on first use,
 * writes a mark behind the write in question and waits for that; who waits at the same time waits together.
 *
 * @throws FLOTILLA_REDIS_ERR_NOT_DURABLE when too few confirmed in time. The write stands on the master all the same.
 */
export async function waitForReplicas(
  client: RedisClient,
  { key, replicas, timeout }: WaitForReplicasOptions
): Promise<void> {
  const ms = parseDuration(timeout)
  if (!Number.isSafeInteger(replicas) || replicas < 1 || ms === undefined || ms < 1) {
    throw new RedisOptionsError(
      `@flotilla/redis: waitForReplicas needs 'replicas' of at least 1 and a 'timeout' of at least 1 ms, got ${replicas} and ${String(timeout)}`
    )
  }
  const wire = keyPrefixOf(client) + key
  const started = performance.now()
  const deadline = started + ms
  // Read before anything else happens: what answers later may be another server.
  const server = isCluster(client) ? undefined : addressOf(client)
  if (!isCluster(client) && client.options.sentinels && server === undefined) {
    throw new RedisNotDurableError(
      '@flotilla/redis: the connection to the master that took the write is gone'
    )
  }
  let node = isCluster(client) ? client.slots[slotOf(wire)]?.[0] : ANY_NODE
  if (node === undefined) {
    throw new RedisNotDurableError(`@flotilla/redis: no node of the Cluster is known for '${key}'`)
  }
  const wait = { wire, server, replicas, timeout: 0, acknowledged: 0 }
  try {
    // While a slot moves, the write may stand on either node.
    for (let hops = 0; node !== undefined && hops < MAX_HOPS; hops++) {
      wait.timeout = deadline - performance.now()
      node = await waitOn(client, node).join(wait)
    }
  } finally {
    durability.publish({ replicas, acknowledged: wait.acknowledged, durationMs: performance.now() - started })
  }
}

function waitOn(client: RedisClient, node: string): ReplicaWait {
  const ofClient = waits.get(client) ?? new Map<string, ReplicaWait>()
  waits.set(client, ofClient)
  let wait = ofClient.get(node)
  if (!wait) {
    wait = new ReplicaWait(client, node, () => ofClient.delete(node))
    ofClient.set(node, wait)
  }
  return wait
}
