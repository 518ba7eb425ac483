import type { RedisOptions } from 'ioredis'
import { endClient } from './client.js'
import { isCluster, type RedisClient } from './redis-client.js'

/** What a blocking user may want otherwise than the shared client has it. */
export interface BlockingOptions {
  /** Default: that of the client. BullMQ refuses a client with one: pass `''`, and its own option `prefix` if you need one. */
  keyPrefix?: string
  /** Shown by CLIENT LIST. Default: that of the client. */
  connectionName?: string
}

/**
 * A client to the same servers with the same credentials, for commands that wait in Redis: BLPOP, XREAD BLOCK, the workers of
 * BullMQ. It has no limit on how long a command or a silent connection may take, waits for Redis through every outage, and sends
 * each command at once. It connects at its first command, and ends with the client at the latest.
 */
export function duplicateForBlocking<Client extends RedisClient>(
  client: Client,
  options: BlockingOptions = {}
): Client {
  const connection: Partial<Omit<RedisOptions, 'replyMapping'>> = {
    commandTimeout: undefined,
    blockingTimeout: undefined,
    socketTimeout: undefined,
    maxRetriesPerRequest: null,
    lazyConnect: true
  }
  if (options.connectionName !== undefined) connection.connectionName = options.connectionName
  const common = {
    enableAutoPipelining: false,
    enableOfflineQueue: true,
    lazyConnect: true,
    ...(options.keyPrefix !== undefined && { keyPrefix: options.keyPrefix })
  }
  const twin: RedisClient = isCluster(client)
    ? client.duplicate([], { ...common, redisOptions: connection })
    : client.duplicate({ ...connection, ...common })
  // ioredis prints an error without a listener. The client to the same servers logs the outage.
  twin.on('error', () => {})
  const end = (): void => endClient(twin)
  client.once('end', end)
  twin.once('end', () => client.off('end', end))
  return twin as Client
}
