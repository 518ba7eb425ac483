import { withTimeout } from '@flotilla/core'
import { Redis, type RedisOptions } from 'ioredis'
import { drop } from './dedicated-connection.js'
import { isCluster, usesTls, type RedisClient } from './redis-client.js'
import type { RedisAddress } from './topology.js'
import { RedisConnectError } from './errors.js'
import { explain, isNotSentinel } from './causes.js'
import { withoutArguments } from './reply-error.js'

export interface ConnectOptions {
  /** What the error names. */
  address: string
  /** Milliseconds for everything. */
  timeout: number
  /** Nodes of a Cluster or sentinels, to ask for the cause that ioredis does not pass on. */
  nodes?: readonly RedisAddress[]
}

/** Before the nodes are asked what is wrong, in milliseconds: most starts have ended by then. */
const INQUIRY_DELAY = 1_000

/**
 * Connects a client, or waits until one is ready, within a time.
 *
 * @throws FLOTILLA_REDIS_ERR_CONNECT naming address and cause: as soon as it is known that trying again cannot help, else when
 *   the time is over. The client is left as it is.
 */
export async function connect(client: RedisClient, options: ConnectOptions): Promise<void> {
  const attempt = new ConnectAttempt(client, options)
  const started = performance.now()
  try {
    await attempt.ready()
    const left = Math.max(100, options.timeout - (performance.now() - started))
    await withTimeout(checkMode(client), left, { timeoutError: () => new Error('no answer to INFO') })
  } catch (error) {
    throw error instanceof RedisConnectError ? error : attempt.failure(error)
  } finally {
    attempt.end()
  }
}

/**
 * One wait for a client to become ready. ioredis goes on trying; this listens to what it meets, keeps the error that says
 * most, and gives up at the first that no further try can mend. Used once: `ready()`, then `end()`.
 */
class ConnectAttempt {
  readonly #client: RedisClient
  readonly #options: ConnectOptions
  readonly #listeners: (() => void)[] = []
  #inquiry: NodeJS.Timeout | undefined
  /** What the inquiry found, which knows more than what ioredis emits. */
  #found: unknown
  #last: unknown
  /** Of the Sentinels asked in this round. */
  #refusals: unknown[] = []
  #ended = false
  #reject: (error: Error) => void = () => {}

  constructor(client: RedisClient, options: ConnectOptions) {
    this.#client = client
    this.#options = options
  }

  async ready(): Promise<void> {
    if (this.#client.status === 'ready') return
    const { timeout } = this.#options
    await withTimeout(
      new Promise<void>((resolve, reject) => {
        this.#reject = reject
        this.#listen(resolve)
      }),
      timeout,
      {
        timeoutError: () =>
          this.failure(this.#found ?? this.#last ?? new Error(`no answer within ${timeout} ms`))
      }
    )
  }

  failure(error: unknown): Error {
    const { reason } = explain(error, usesTls(this.#client))
    return new RedisConnectError(`@flotilla/redis: cannot use Redis at ${this.#options.address}: ${reason}`, {
      cause: withoutArguments(error)
    })
  }

  end(): void {
    this.#ended = true
    clearTimeout(this.#inquiry)
    for (const remove of this.#listeners) remove()
  }

  #listen(resolve: () => void): void {
    const client = this.#client
    const note = (error: unknown): void => this.#note(error)
    this.#on('error', (error) => {
      this.#endRound()
      note(error)
    })
    this.#on('node error', note)
    this.#on('sentinelError', (error) => {
      this.#refusals.push(error)
      note(error)
    })
    this.#on('close', () => {
      this.#last ??= new Error('the server closed the connection')
    })
    this.#on('ready', resolve)
    this.#on('end', () =>
      this.#reject(this.failure(this.#found ?? this.#last ?? new Error('the client has been closed')))
    )
    if (client.status === 'wait') client.connect().catch(note)
    this.#inquireIn(Math.min(INQUIRY_DELAY, this.#options.timeout / 5))
  }

  #inquireIn(delay: number): void {
    this.#inquiry = setTimeout(() => void this.#inquire(), delay)
  }

  /** Asks the nodes themselves, and again later: what is wrong may change. */
  async #inquire(): Promise<void> {
    const { timeout, nodes = [] } = this.#options
    this.#found = await inquire(this.#client, nodes, timeout / 3)
    this.#note(this.#found)
    if (!this.#ended) this.#inquireIn(timeout / 5)
  }

  #on(event: string, listener: (error: unknown) => void): void {
    this.#client.on(event, listener)
    this.#listeners.push(() => this.#client.off(event, listener))
  }

  #note(error: unknown): void {
    if (error === undefined) return
    const { fatal, weight } = explain(error, usesTls(this.#client))
    if (fatal) this.#reject(this.failure(error))
    else if (weight > 0) this.#last = error
  }

  /** ioredis has asked all Sentinels. One that is away may come back; servers in place of Sentinels stay what they are. */
  #endRound(): void {
    const [first] = this.#refusals
    if (first !== undefined && this.#refusals.every(isNotSentinel)) this.#reject(this.failure(first))
    this.#refusals = []
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
  // Valkey's word is server_mode.
  const mode = /^(?:redis|server)_mode:(\w+)/m.exec(info)?.[1]
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
  if (!isCluster(client) && !client.options.sentinels) return undefined
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
