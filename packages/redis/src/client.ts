import { withTimeout } from '@flotilla/core'
import type { ClusterOptions, Redis, RedisOptions } from 'ioredis'
import { BoundedCluster } from './bounded-cluster.js'
import { BoundedRedis } from './bounded-redis.js'
import type { Settings } from './options.js'
import { isCluster, type RedisClient } from './redis-client.js'
import type { RedisTarget } from './topology.js'

/** Options that ioredis reads for a Cluster as a whole; all others are those of its connections. */
const CLUSTER_LEVEL = new Set([
  'clusterRetryStrategy',
  'clusterNodeRetryStrategy',
  'enableOfflineQueue',
  'enableReadyCheck',
  'scaleReads',
  'maxRedirections',
  'retryDelayOnMoved',
  'retryDelayOnFailover',
  'retryDelayOnClusterDown',
  'retryDelayOnTryAgain',
  'slotsRefreshTimeout',
  'slotsRefreshInterval',
  'shardedSubscribers',
  'useSRVRecords',
  'resolveSrv',
  'dnsLookup',
  'natMap',
  'enableAutoPipelining',
  'autoPipeliningIgnoredCommands',
  'scripts',
  'keyPrefix',
  'showFriendlyErrorStack'
])

/** Milliseconds. */
const LEAVE_AGAIN_AFTER = 5_000

/**
 * A former master after a failover, behind the same address: leave it and try again. Where that leads to a replica as well,
 * the URL names one, and the caller gets READONLY.
 */
function leaveFormerMaster(): (error: Error) => 2 | false {
  let left = -Infinity
  return (error) => {
    if (!error.message.startsWith('READONLY') || performance.now() - left < LEAVE_AGAIN_AFTER) return false
    left = performance.now()
    return 2
  }
}

/**
 * What a client needs at most to find Redis again once it is back, and to send what it sends regularly, in milliseconds:
 * its longest pause between two attempts, that of a plain ioredis too, is 2 s. No lease may be given up sooner.
 */
export const RETURN_ALLOWANCE = 2_000

/** A client that has not connected yet. */
export function createClient(target: RedisTarget, settings: Settings): RedisClient {
  const { commandTimeout } = settings
  const connection: RedisOptions & { commandTimeout: number } = {
    // Several attempts, or several sentinels, must fit into the time that start-up has.
    connectTimeout: Math.max(100, Math.floor(settings.connectTimeout / 3)),
    // A connection on which nothing came back for this long is dead, whatever TCP says. See end-when-silent.ts.
    socketTimeout: commandTimeout * 2,
    // After this an orderly end has failed, because the peer does not answer.
    disconnectTimeout: 200,
    keepAlive: 10_000,
    retryStrategy: (times) => Math.min(50 * 2 ** (times - 1), 1_000) + Math.floor(Math.random() * 100),
    reconnectOnError: leaveFormerMaster(),
    clientInfoTag: 'flotilla',
    ...withoutUndefined({
      username: target.username,
      password: target.password,
      db: target.db,
      tls: target.tls ? {} : undefined
    }),
    ...(settings.ioredis as RedisOptions),
    commandTimeout,
    lazyConnect: true
  }
  if (target.topology === 'cluster') return createCluster(target, connection, settings)
  if (target.topology === 'single') {
    const place = target.socketPath === undefined ? target.nodes[0]! : { path: target.socketPath }
    return new BoundedRedis({ enableAutoPipelining: true, ...place, ...connection })
  }
  return new BoundedRedis({
    enableAutoPipelining: true,
    sentinelCommandTimeout: commandTimeout,
    sentinelRetryStrategy: (times) => Math.min(times * 50, 1_000),
    ...(target.tls ? { enableTLSForSentinelMode: true, sentinelTLS: connection.tls } : {}),
    ...connection,
    sentinels: target.nodes.map(({ host, port }) => ({ host, port })),
    name: target.master!
  })
}

function createCluster(target: RedisTarget, connection: RedisOptions, settings: Settings): BoundedCluster {
  const ofCluster: Record<string, unknown> = {}
  const ofNode: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(connection)) {
    ;(CLUSTER_LEVEL.has(name) ? ofCluster : ofNode)[name] = value
  }
  const { redisOptions } = settings.ioredis
  delete ofNode['redisOptions']
  delete ofNode['retryStrategy']
  delete ofNode['reconnectOnError']
  const options: ClusterOptions = {
    enableAutoPipelining: true,
    slotsRefreshInterval: 10_000,
    clusterRetryStrategy: (times) => Math.min(100 + times * 50, 1_000),
    // Certificates name hosts, not addresses.
    ...(connection.tls ? { dnsLookup: (host, done) => done(null, host) } : {}),
    ...ofCluster,
    lazyConnect: true,
    redisOptions: { ...ofNode, ...withoutUndefined(redisOptions ?? {}) }
  }
  return new BoundedCluster(
    target.nodes.map(({ host, port }) => ({ host, port })),
    options,
    settings.commandTimeout
  )
}

/** Ends a client in bounded time: politely where Redis answers, at once where it does not. */
export async function closeClient(client: RedisClient, timeout: number): Promise<void> {
  const connections: Redis[] = isCluster(client) ? client.nodes('all') : [client]
  if (client.status === 'ready') {
    await withTimeout(client.quit(), timeout, { timeoutError: () => new Error('quit timed out') }).catch(
      () => {}
    )
  }
  endClient(client)
  for (const connection of connections) if (connection.status !== 'end') connection.stream?.destroy()
}

/**
 * Ends a client, also one that waits for its next attempt to connect. ioredis cancels that attempt and then ends nothing: commands
 * in its queue never settle and `end` is never emitted. From `wait` it does both.
 */
export function endClient(client: RedisClient): void {
  if (client.status === 'end') return
  if (client.status === 'reconnecting') client.status = 'wait'
  client.disconnect()
}

function withoutUndefined<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>
  }
}
