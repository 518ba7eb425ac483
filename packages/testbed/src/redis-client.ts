import { Redis } from 'ioredis'

/** Where a Redis server listens and how to get in. */
export interface RedisAddress {
  host: string
  port: number
  password?: string | undefined
  tls?: { ca: string } | undefined
}

/**
 * A client for the testbed's own use: fails at once instead of reconnecting and queueing, and keeps no process
 * alive once it is disconnected.
 */
export function connectRedis({ host, port, password, tls }: RedisAddress): Redis {
  const client = new Redis({
    host,
    port,
    ...(password !== undefined && { password }),
    ...(tls && { tls: { ca: tls.ca, servername: 'localhost' } }),
    lazyConnect: true,
    connectTimeout: 1_000,
    retryStrategy: () => null,
    maxRetriesPerRequest: 0,
    enableOfflineQueue: true
  })
  // Callers see the failed command.
  client.on('error', () => {})
  return client
}

/** Runs commands on a connection of their own, which is closed afterwards. */
export async function withRedis<T>(address: RedisAddress, work: (client: Redis) => Promise<T>): Promise<T> {
  const client = connectRedis(address)
  try {
    await client.connect()
    return await work(client)
  } finally {
    client.disconnect()
  }
}

/** One command, one reply. */
export function redisCommand(address: RedisAddress, ...command: (string | number)[]): Promise<unknown> {
  const [name, ...args] = command
  return withRedis(address, (client) => client.call(String(name), ...args.map(String)))
}

/** The fields of `INFO <section>` (or of any reply of that form). */
export async function redisInfo(address: RedisAddress, section: string): Promise<Record<string, string>> {
  const text = String(await redisCommand(address, 'INFO', section))
  const fields: Record<string, string> = {}
  for (const line of text.split('\r\n')) {
    const colon = line.indexOf(':')
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1)
  }
  return fields
}
