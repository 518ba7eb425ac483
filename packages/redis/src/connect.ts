import { Redis, type RedisOptions } from 'ioredis'
import { drop } from './dedicated-connection.js'
import { isCluster, usesTls, type RedisClient } from './redis-client.js'
import type { RedisAddress } from './topology.js'
import { within } from './deadline.js'
import { RedisConnectError } from './errors.js'
import { explain } from './causes.js'
import { withoutArguments } from './reply-error.js'

export interface ConnectOptions {
  /** What the error names. */
  address: string
  /** Milliseconds for everything. */
  timeout: number
  /** Nodes of a Cluster or sentinels, to ask for the cause that ioredis does not pass on. */
  nodes?: readonly RedisAddress[]
}

/**
 * Connects a client, or waits until one is ready, within a time.
 *
 * @throws FLOTILLA_REDIS_ERR_CONNECT naming address and cause: as soon as it is known that trying again cannot help, else when
 *   the time is over. The client is left as it is.
 */
export async function connect(
  client: RedisClient,
  { address, timeout, nodes = [] }: ConnectOptions
): Promise<void> {
  const deadline = Date.now() + timeout
  let last: unknown
  let found: unknown
  const fail = (error: unknown): Error => {
    const { reason } = explain(error, usesTls(client))
    return new RedisConnectError(`@flotilla/redis: cannot use Redis at ${address}: ${reason}`, {
      cause: withoutArguments(error)
    })
  }
  const trace: (() => void)[] = []
  let inquiry: NodeJS.Timeout | undefined
  const on = (event: string, listener: (error: unknown) => void): void => {
    client.on(event, listener)
    trace.push(() => client.off(event, listener))
  }
  try {
    await within(
      new Promise<void>((resolve, reject) => {
        if (client.status === 'ready') return resolve()
        const note = (error: unknown): void => {
          if (error === undefined) return
          const { fatal, weight } = explain(error, usesTls(client))
          if (fatal) reject(fail(error))
          else if (weight > 0) last = error
        }
        on('error', note)
        on('node error', note)
        on('sentinelError', note)
        on('close', () => {
          last ??= new Error('closed without a word')
        })
        on('ready', () => resolve())
        on('end', () => reject(fail(found ?? last ?? new Error('the client has been closed'))))
        if (client.status === 'wait') client.connect().catch(note)
        const conclude = (error: unknown): void => {
          found = error
          note(error)
        }
        inquiry = setTimeout(() => void inquire(client, nodes, timeout / 3).then(conclude), timeout / 5)
      }),
      timeout,
      () => fail(found ?? last ?? new Error(`no answer within ${timeout} ms`))
    )
    await within(
      checkMode(client),
      Math.max(100, deadline - Date.now()),
      () => new Error('no answer to INFO')
    )
  } catch (error) {
    throw error instanceof RedisConnectError ? error : fail(error)
  } finally {
    clearTimeout(inquiry)
    for (const remove of trace) remove()
  }
}

/** A Cluster node asked as a single server answers most commands with MOVED: better to say so at the start. */
async function checkMode(client: RedisClient): Promise<void> {
  if (isCluster(client)) return
  let info: string
  try {
    info = await client.info('server')
  } catch (error) {
    // An ACL may forbid INFO.
    if (error instanceof Error && error.message.startsWith('NOPERM')) return
    throw error
  }
  const mode = /^redis_mode:(\w+)/m.exec(info)?.[1]
  if (mode === 'cluster') throw new Error('WRONGMODE cluster')
  if (mode === 'sentinel') throw new Error('WRONGMODE sentinel')
}

/** Asks nodes or sentinels one by one what is wrong: resolves with an error to report, or nothing. */
async function inquire(
  client: RedisClient,
  nodes: readonly RedisAddress[],
  timeout: number
): Promise<unknown> {
  let found: unknown
  if (!isCluster(client) && !client.options.sentinels) return found
  for (const node of nodes.slice(0, 3)) {
    const connection = new Redis({
      ...credentials(client),
      ...node,
      connectTimeout: timeout,
      commandTimeout: timeout,
      retryStrategy: null,
      lazyConnect: true
    })
    const errors: unknown[] = []
    connection.on('error', (error) => errors.push(error))
    try {
      await connection.connect()
      if (!isCluster(client)) {
        const master = await connection.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', client.options.name ?? '')
        found = master ? undefined : new Error('no such master')
      } else if (!(await connection.cluster('INFO')).includes('cluster_state:ok')) {
        found = new Error('CLUSTERDOWN cluster_state is not ok')
      }
      return found
    } catch (error) {
      found = errors[0] ?? error
    } finally {
      drop(connection)
    }
  }
  return found
}

function credentials(client: RedisClient): Pick<RedisOptions, 'username' | 'password' | 'tls'> {
  if (isCluster(client)) {
    const { username, password, tls } = client.options.redisOptions ?? {}
    return { username, password, tls }
  }
  const { sentinelUsername, sentinelPassword, sentinelTLS } = client.options
  return { username: sentinelUsername, password: sentinelPassword, tls: sentinelTLS }
}
