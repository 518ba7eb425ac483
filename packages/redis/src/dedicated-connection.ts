import type { Redis, RedisOptions } from 'ioredis'
import { commandTimeoutOf, isCluster, type RedisClient } from './redis-client.js'

/** Stands for whichever server there is: the one, the master that Sentinel names, any node of a Cluster. */
export const ANY_NODE = ''

/** Connections made so far behind Sentinel, by client. */
const attempts = new WeakMap<RedisClient, number>()

/**
 * A connection beside the shared one, to the same servers with the same credentials, that is not open yet, adds no
 * key prefix, and does not reconnect by itself: whoever holds it wants to know when it is lost. Each one asks another
 * Sentinel first, so that one that does not answer cannot take the time of every attempt.
 *
 * @param node `host:port` of a Cluster node, or {@link ANY_NODE}
 * @throws an `Error` while no node of the Cluster is known.
 */
export function dedicatedConnection(
  client: RedisClient,
  node: string,
  options: Partial<RedisOptions>
): Redis {
  const own: Partial<RedisOptions> = {
    lazyConnect: true,
    keyPrefix: '',
    autoResubscribe: false,
    autoResendUnfulfilledCommands: false,
    enableAutoPipelining: false,
    enableOfflineQueue: true,
    retryStrategy: null,
    sentinelRetryStrategy: () => null,
    sentinelCommandTimeout: 1_000,
    failoverDetector: false,
    reconnectOnError: null,
    socketTimeout: undefined,
    commandTimeout: Math.max(1_000, commandTimeoutOf(client)),
    connectTimeout: 2_000,
    disconnectTimeout: 200,
    readOnly: false,
    ...options
  }
  if (!isCluster(client)) {
    const { sentinels } = client.options
    if (!sentinels?.length) return client.duplicate(own)
    const attempt = attempts.get(client) ?? 0
    attempts.set(client, attempt + 1)
    const first = attempt % sentinels.length
    return client.duplicate({
      ...own,
      sentinels: [...sentinels.slice(first), ...sentinels.slice(0, first)]
    })
  }
  if (client.status === 'wait') client.connect().catch(() => {})
  const nodes = client.nodes('all')
  const some = nodes[Math.floor(Math.random() * nodes.length)]
  if (!some) throw new Error('no node of the Cluster is known')
  if (node === ANY_NODE) return some.duplicate(own)
  const colon = node.lastIndexOf(':')
  return some.duplicate({ ...own, host: node.slice(0, colon), port: Number(node.slice(colon + 1)) })
}

/** Ends a connection at once, also one whose peer does not answer. */
export function drop(connection: Redis): void {
  connection.on('error', () => {})
  connection.disconnect()
  connection.stream?.destroy()
}
