import { withTimeout } from '@flotilla/core'
import type { Redis } from 'ioredis'
import { drop } from './dedicated-connection.js'
import { addressOf, isCluster, type RedisClient } from './redis-client.js'

interface Opinion {
  readonly epoch: number
  readonly replaced: boolean
}

/** How long one Sentinel may take to answer, in milliseconds. */
const PATIENCE = 500
/** For how long one that did not answer is left alone. */
const LEFT_ALONE = 2_000

/** Connections to the Sentinels end when nobody has asked for this long, in milliseconds. */
const IDLE = 10_000

const views = new WeakMap<RedisClient, SentinelView>()

/**
 * Whether Sentinel has put another server in the place of the one that `connection` leads to, or is about to. A master
 * that was replaced does not know it at once: come back from a pause or a partition it takes writes until Sentinel
 * reaches it, and a replica that has not been led away yet even confirms them to WAIT.
 *
 * Sentinels that do not answer in half a second are not counted. Of those that differ, the newest configuration is right.
 *
 * @param client a client of that master; where no Sentinel is behind it the answer is no
 * @param connection right after it answered: what it leads to now is asked about
 */
export async function isMasterReplaced(client: RedisClient, connection: RedisClient): Promise<boolean> {
  if (isCluster(client) || isCluster(connection) || !client.options.sentinels?.length) return false
  let view = views.get(client)
  if (!view) views.set(client, (view = new SentinelView(client)))
  return view.replaced(connection)
}

/** A server, as Sentinel can name it: by its run id, or by where it listens. */
interface ServerIdentity {
  readonly runId: string | undefined
  readonly address: string | undefined
}

/** What the Sentinels of a client say about its master. */
class SentinelView {
  readonly #client: Redis
  readonly #connections = new Map<string, Redis>()
  readonly #away = new Map<string, number>()
  /** By the socket: a connection made anew may lead to another server. */
  readonly #runIds = new WeakMap<object, Promise<string | undefined>>()
  #idle: NodeJS.Timeout | undefined

  constructor(client: Redis) {
    this.#client = client
    client.on('end', () => this.#close())
  }

  async replaced(connection: Redis): Promise<boolean> {
    clearTimeout(this.#idle)
    this.#idle = setTimeout(() => this.#close(), IDLE).unref()
    const address = addressOf(connection)
    const master = { address, runId: await this.#runIdOf(connection) }
    const asked = await Promise.all(
      (this.#client.options.sentinels ?? []).map(({ host = '127.0.0.1', port = 26379 }) =>
        this.#ask(host, port, master)
      )
    )
    const opinions = asked.filter((opinion) => opinion !== undefined)
    const newest = Math.max(...opinions.map(({ epoch }) => epoch))
    return opinions.some(({ epoch, replaced }) => replaced && epoch === newest)
  }

  #runIdOf(connection: Redis): Promise<string | undefined> {
    const { stream } = connection
    let known = this.#runIds.get(stream)
    if (!known) {
      known = connection.info('server').then((text) => /^run_id:(\w+)/m.exec(text)?.[1])
      this.#runIds.set(stream, known)
      known.catch(() => this.#runIds.delete(stream))
    }
    return known
  }

  #close(): void {
    clearTimeout(this.#idle)
    for (const connection of this.#connections.values()) drop(connection)
    this.#connections.clear()
  }

  async #ask(host: string, port: number, master: ServerIdentity): Promise<Opinion | undefined> {
    const address = `${host}:${port}`
    if (performance.now() < (this.#away.get(address) ?? 0)) return undefined
    try {
      const connection = this.#connectionTo(host, port)
      const reply = connection.call('SENTINEL', 'MASTER', this.#client.options.name ?? '')
      return opinionOf(
        await withTimeout(reply, PATIENCE, { timeoutError: () => new Error('no answer') }),
        master
      )
    } catch {
      this.#away.set(address, performance.now() + LEFT_ALONE)
      this.#lose(address)
      return undefined
    }
  }

  #connectionTo(host: string, port: number): Redis {
    const address = `${host}:${port}`
    const open = this.#connections.get(address)
    if (open) return open
    const { sentinelUsername, sentinelPassword, sentinelTLS } = this.#client.options
    const connection = this.#client.duplicate({
      sentinels: null,
      host,
      port,
      username: sentinelUsername,
      password: sentinelPassword,
      tls: sentinelTLS,
      db: 0,
      keyPrefix: '',
      connectionName: 'flotilla-sentinel-view',
      enableAutoPipelining: false,
      enableReadyCheck: false,
      retryStrategy: null,
      reconnectOnError: null,
      autoResendUnfulfilledCommands: false,
      connectTimeout: PATIENCE,
      // The question has a limit of its own, which knows a blocked event loop.
      commandTimeout: undefined,
      disconnectTimeout: 200,
      lazyConnect: true
    } as unknown as Parameters<Redis['duplicate']>[0])
    connection.on('error', () => {})
    connection.once('end', () => this.#lose(address))
    this.#connections.set(address, connection)
    return connection
  }

  #lose(address: string): void {
    const connection = this.#connections.get(address)
    if (!connection) return
    this.#connections.delete(address)
    drop(connection)
  }
}

function opinionOf(reply: unknown, { runId, address }: ServerIdentity): Opinion {
  const fields = fieldsOf(reply)
  const flags = (fields.get('flags') ?? '').split(',')
  const known =
    (runId !== undefined && fields.get('runid') === runId) ||
    `${fields.get('ip')}:${fields.get('port')}` === address
  return {
    epoch: Number(fields.get('config-epoch') ?? 0),
    replaced: !known || flags.includes('failover_in_progress') || flags.includes('o_down')
  }
}

/** A list of names and values, or a map of them where the client maps replies as RESP3 has them. */
function fieldsOf(reply: unknown): Map<string, string> {
  const fields = new Map<string, string>()
  if (Array.isArray(reply)) {
    for (let at = 0; at + 1 < reply.length; at += 2) fields.set(String(reply[at]), String(reply[at + 1]))
  } else if (reply instanceof Map) {
    for (const [name, value] of reply) fields.set(String(name), String(value))
  } else if (typeof reply === 'object' && reply !== null) {
    for (const [name, value] of Object.entries(reply)) fields.set(name, String(value))
  }
  return fields
}
