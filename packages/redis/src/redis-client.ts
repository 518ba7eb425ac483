import type { Cluster, Redis } from 'ioredis'
import type { Socket } from 'node:net'

/** An ioredis client, of version 5 or 6, for one server, Sentinel or Cluster. */
export type RedisClient = Redis | Cluster

/** Whether a client speaks to a Redis Cluster. Told by its shape: it may come from another copy of ioredis. */
export function isCluster(client: RedisClient): client is Cluster {
  return client.isCluster
}

/** Whether a value can serve as a client; a map of namespaced clients cannot. */
export function isRedisClient(value: unknown): value is RedisClient {
  const one = value as Partial<Redis> | null | undefined
  return (
    typeof one === 'object' &&
    one !== null &&
    typeof one.duplicate === 'function' &&
    typeof one.sendCommand === 'function' &&
    typeof one.status === 'string'
  )
}

/** The prefix that a client puts before its keys, or the empty string. */
export function keyPrefixOf(client: RedisClient): string {
  return client.options.keyPrefix ?? ''
}

/**
 * What stands before each channel of a client on the wire: its key prefix, and the number of its database unless that is 0.
 * Redis knows databases for keys only: without the number a message reaches the subscribers of all of them. It stands behind the
 * key prefix, so that an ACL pattern such as `&app:*` covers it.
 *
 * A script that publishes needs it, since neither Redis nor ioredis adds it there.
 */
export function channelPrefixOf(client: RedisClient): string {
  return keyPrefixOf(client) + databasePartOf(client)
}

/** The part of {@link channelPrefixOf} that ioredis adds nowhere. */
export function databasePartOf(client: RedisClient): string {
  const { db } = isCluster(client) ? (client.options.redisOptions ?? {}) : client.options
  return db ? `@db${db}:` : ''
}

/** How long a command of this client may take, in milliseconds; for a client without a limit, one second. */
export function commandTimeoutOf(client: RedisClient): number {
  const { commandTimeout } = isCluster(client) ? (client.options.redisOptions ?? {}) : client.options
  return typeof commandTimeout === 'number' && commandTimeout > 0 ? commandTimeout : 1_000
}

/** Whether a client encrypts what it says to the servers. */
export function usesTls(client: RedisClient): boolean {
  return Boolean((isCluster(client) ? client.options.redisOptions : client.options)?.tls)
}

/** The server at the other end of a connection; `undefined` without one, or behind a Unix socket. */
export function addressOf(connection: Redis): string | undefined {
  const { remoteAddress, remotePort } = (connection.stream ?? {}) as Partial<Socket>
  return remoteAddress === undefined ? undefined : `${remoteAddress}:${remotePort}`
}
