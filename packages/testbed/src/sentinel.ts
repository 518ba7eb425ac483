import { randomBytes } from 'node:crypto'
import { StateError } from './errors.js'
import { credentialsOf, defaultPassword, startRedis, type RedisServer } from './redis-server.js'
import { until } from './until.js'

export interface SentinelOptions {
  /** Replicas of the primary; default 2. */
  replicas?: number
  /** Sentinels, of which a majority must agree; default 3. */
  sentinels?: number
  /** What clients of the Redis servers must give; `false` lets everyone in. Default a password of the testbed. */
  password?: string | false
  /** What clients of the Sentinels, and the Sentinels of each other, must give; no URL carries it. Default none. */
  sentinelPassword?: string
  /** More arguments of each Redis server. */
  args?: readonly string[]
}

const masterName = 'mymaster'

/** One primary, its replicas, and the Sentinels that elect another primary within about a second. */
export class SentinelGroup {
  readonly #strays: RedisServer[] = []

  private constructor(
    readonly servers: RedisServer[],
    readonly sentinels: RedisServer[],
    private readonly password: string | undefined
  ) {}

  static async start(options: SentinelOptions = {}): Promise<SentinelGroup> {
    const { replicas = 2, sentinels = 3, sentinelPassword, args = [] } = options
    const password = options.password === false ? undefined : (options.password ?? defaultPassword)
    const started: RedisServer[] = []
    const start = async (...settings: Parameters<typeof startRedis>): Promise<RedisServer> => {
      const server = await startRedis(...settings)
      started.push(server)
      return server
    }
    const auth = { password: password ?? (false as const) }
    try {
      const master = await start({ ...auth, args })
      const replicaOf = ['--replicaof', master.host, String(master.port)]
      const followers = await Promise.all(
        Array.from({ length: replicas }, () => start({ ...auth, args: [...replicaOf, ...args] }))
      )
      // The last Sentinel is slower to judge: all of them standing for election at once split the vote.
      const conf = (index: number) => (): string =>
        [
          `sentinel myid ${randomBytes(20).toString('hex')}`,
          `sentinel monitor ${masterName} ${master.host} ${master.port} ${Math.floor(sentinels / 2) + 1}`,
          `sentinel down-after-milliseconds ${masterName} ${index === sentinels - 1 ? 1_300 : 600}`,
          `sentinel failover-timeout ${masterName} 3000`,
          `sentinel parallel-syncs ${masterName} 5`,
          ...(password === undefined ? [] : [`sentinel auth-pass ${masterName} ${password}`]),
          ...(sentinelPassword === undefined ? [] : [`requirepass ${sentinelPassword}`]),
          ...followers.map(({ host, port }) => `sentinel known-replica ${masterName} ${host} ${port}`),
          ''
        ].join('\n')
      const watchers = await Promise.all(
        Array.from({ length: sentinels }, (_none, index) =>
          start({ password: sentinelPassword ?? false, sentinel: conf(index) })
        )
      )
      const group = new SentinelGroup([master, ...followers], watchers, password)
      await Promise.all(watchers.map((sentinel) => quicken(sentinel)))
      await group.waitForAgreement()
      await waitForReplication(master, replicas)
      return group
    } catch (error) {
      await Promise.all(started.map((server) => server.stop()))
      throw error
    }
  }

  readonly name = masterName

  get url(): string {
    return `redis+sentinel://${credentialsOf(this.password)}${this.sentinels.map(({ host, port }) => `${host}:${port}`).join(',')}/${masterName}`
  }

  /** The server that most of the Sentinels call the primary. */
  async master(): Promise<RedisServer> {
    const votes = new Map<number, number>()
    for (const sentinel of this.sentinels.filter(({ running }) => running)) {
      const reply = await sentinel
        .command('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', masterName)
        .catch(() => undefined)
      const port = Number((reply as string[] | undefined)?.[1])
      if (port) votes.set(port, (votes.get(port) ?? 0) + 1)
    }
    const [winner] = [...votes].sort(([, a], [, b]) => b - a)
    const server = this.servers.find(({ port }) => port === winner?.[0])
    if (server === undefined) throw new StateError('no Sentinel answers with a known primary')
    return server
  }

  /** The running servers that are not the primary. */
  async replicas(): Promise<RedisServer[]> {
    const master = await this.master()
    return this.servers.filter((server) => server !== master && server.running)
  }

  /**
   * A replica of `primary` that no Sentinel can reach, because it is announced where nothing listens: it is never promoted,
   * and stays with that server whatever they decide.
   */
  async startStray(primary: RedisServer): Promise<RedisServer> {
    const announced = ['--replica-announce-ip', primary.host, '--replica-announce-port', '1']
    const before = Number((await primary.info('replication'))['connected_slaves'])
    const stray = await startRedis({
      password: this.password ?? false,
      args: ['--replicaof', primary.host, String(primary.port), ...announced]
    })
    this.#strays.push(stray)
    await waitForReplication(primary, before + 1)
    return stray
  }

  /** Waits until another server than `old` is the primary and takes writes. An election that fails is repeated after 6 s. */
  async waitForFailover(old: RedisServer, timeout = 90_000): Promise<RedisServer> {
    return until(
      async () => {
        const master = await this.master()
        return master !== old && (await master.info('replication'))['role'] === 'master' && master
      },
      { timeout, interval: 20, message: `Sentinel has moved away from port ${old.port}` }
    )
  }

  /** An orderly failover by the Sentinels; resolves with the new primary. */
  async failover(): Promise<RedisServer> {
    const old = await this.master()
    await until(
      async () => {
        await this.sentinels.find(({ running }) => running)?.command('SENTINEL', 'FAILOVER', masterName)
        return true
      },
      { message: 'a Sentinel accepts the failover' }
    )
    return this.waitForFailover(old)
  }

  /** Waits until every Sentinel knows every running server and the other Sentinels, and every replica is linked. */
  async waitForAgreement(timeout = 60_000): Promise<void> {
    const watchers = this.sentinels.filter(({ running }) => running)
    await until(
      async () => {
        const master = await this.master()
        const linked = await Promise.all(
          (await this.replicas()).map(
            async (replica) => (await replica.info('replication'))['master_link_status'] === 'up'
          )
        )
        const views = await Promise.all(watchers.map((sentinel) => viewOf(sentinel)))
        return (
          linked.every(Boolean) &&
          views.every(
            ({ port, others, slaves, flags }) =>
              port === master.port &&
              others >= watchers.length - 1 &&
              slaves >= linked.length &&
              flags === 'master'
          )
        )
      },
      { timeout, interval: 20, message: 'the Sentinels agree on the primary and know each other' }
    )
  }

  async stop(): Promise<void> {
    await Promise.all([...this.sentinels, ...this.servers, ...this.#strays].map((server) => server.stop()))
  }
}

/** Starts a primary, replicas and Sentinels. */
export function startSentinel(options?: SentinelOptions): Promise<SentinelGroup> {
  return SentinelGroup.start(options)
}

/**
 * Waits until every replica has confirmed a write. A replica's link is up as soon as it has loaded the primary's data,
 * but the primary sends it nothing before its first acknowledgement, which comes within a second; until then WAIT
 * finds nobody.
 */
async function waitForReplication(master: RedisServer, replicas: number): Promise<void> {
  const client = master.client()
  try {
    await until(
      async () => {
        // Replicated like a write, and leaves no key behind.
        await client.publish('testbed', '')
        return Number(await client.call('WAIT', replicas, 1000)) >= replicas
      },
      { timeout: 20_000, interval: 20, message: 'every replica confirms a write' }
    )
  } finally {
    client.disconnect()
  }
}

async function viewOf(
  sentinel: RedisServer
): Promise<{ port: number; others: number; slaves: number; flags: string }> {
  const reply = (await sentinel.command('SENTINEL', 'MASTER', masterName)) as string[]
  const field = (name: string): string => String(reply[reply.indexOf(name) + 1])
  return {
    port: Number(field('port')),
    others: Number(field('num-other-sentinels')),
    slaves: Number(field('num-slaves')),
    flags: field('flags')
  }
}

/** Sentinel talks every one to ten seconds by default; here several times a second. */
async function quicken(sentinel: RedisServer): Promise<void> {
  const periods = {
    // A replica is fit to be promoted when its last INFO is younger than five of these.
    'PING-PERIOD': 500,
    'INFO-PERIOD': 700,
    'ASK-PERIOD': 100,
    'PUBLISH-PERIOD': 100,
    'ELECTION-TIMEOUT': 1_000,
    'SLAVE-RECONF-TIMEOUT': 1_000,
    'TILT-PERIOD': 1_000
  }
  // Redis 7 and later; an older Sentinel works, at its own pace.
  await sentinel.command('SENTINEL', 'DEBUG', ...Object.entries(periods).flat()).catch(() => undefined)
}
