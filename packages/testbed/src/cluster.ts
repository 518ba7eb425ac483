import slotOfKey from 'cluster-key-slot'
import { startSlotMigration, type SlotMigration } from './cluster-migration.js'
import { StateError } from './errors.js'
import { credentialsOf, defaultPassword, startRedis, type RedisServer } from './redis-server.js'
import { until } from './until.js'

export interface ClusterOptions {
  /** Nodes that own slots; default 3. */
  masters?: number
  /** Replicas of each; default 1. */
  replicas?: number
  /** Milliseconds without an answer after which a node counts as failed; default 1,500. */
  nodeTimeout?: number
  /** What clients must give; `false` lets everyone in. Default a password of the testbed. */
  password?: string | false
  /** More arguments of each server. */
  args?: readonly string[]
}

const slots = 16_384

/** One line of CLUSTER NODES. */
interface NodeLine {
  id: string
  port: number
  flags: string[]
  masterId: string
  linked: boolean
  ranges: string[]
}

/** A Redis Cluster. Which node is whose replica changes with failovers: ask each time. */
export class RedisCluster {
  private constructor(
    readonly nodes: RedisServer[],
    private readonly password: string | undefined
  ) {}

  static async start(options: ClusterOptions = {}): Promise<RedisCluster> {
    const { masters = 3, replicas = 1, nodeTimeout = 1_500, args = [] } = options
    const password = options.password === false ? undefined : (options.password ?? defaultPassword)
    const settings = ['--cluster-node-timeout', String(nodeTimeout), '--cluster-replica-validity-factor', '0']
    const started = await Promise.allSettled(
      Array.from({ length: masters * (1 + replicas) }, () =>
        startRedis({
          cluster: true,
          args: [...settings, ...args],
          password: password ?? false
        })
      )
    )
    const nodes = started.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
    try {
      for (const one of started) if (one.status === 'rejected') throw one.reason
      await form(nodes, masters, replicas)
      const cluster = new RedisCluster(nodes, password)
      await cluster.waitForHealth()
      return cluster
    } catch (error) {
      await Promise.all(nodes.map((node) => node.stop()))
      throw error
    }
  }

  get url(): string {
    return `redis+cluster://${credentialsOf(this.password)}${this.nodes.map(({ host, port }) => `${host}:${port}`).join(',')}`
  }

  /** The nodes that own slots and run. */
  async masters(): Promise<RedisServer[]> {
    const lines = await this.#lines()
    return this.nodes.filter(
      (node) =>
        node.running &&
        lines.some((line) => line.port === node.port && isMaster(line) && line.ranges.length > 0)
    )
  }

  /** The node that owns a key's slot, or a slot by number. */
  async masterOf(key: string | number): Promise<RedisServer> {
    const slot = typeof key === 'number' ? key : slotOfKey(key)
    const owner = (await this.#lines()).find((line) => isMaster(line) && owns(line, slot))
    return this.#node(owner?.port, `owner of slot ${slot}`)
  }

  /** A running replica of the node that owns a key's slot, or of a node. */
  async replicaOf(key: string | number | RedisServer): Promise<RedisServer> {
    const master = typeof key === 'object' ? key : await this.masterOf(key)
    const lines = await this.#lines()
    const id = lines.find(({ port }) => port === master.port)?.id
    const replica = lines.find(
      (line) => line.masterId === id && this.nodes.some(({ port, running }) => port === line.port && running)
    )
    return this.#node(replica?.port, `replica of port ${master.port}`)
  }

  /**
   * Moves a slot and its keys to another node, live, as a rebalance does: MIGRATING and IMPORTING are set, keys
   * move one by one, then every master learns the new owner.
   *
   * @param options.to the node; default another master than the present one
   * @param options.midway runs after about half of the keys have moved (or before the hand-over where there
   *   are none), while clients meet ASK and TRYAGAIN
   */
  async migrateSlot(
    slot: number | string,
    options: { to?: RedisServer; midway?: () => Promise<void> | void } = {}
  ): Promise<{ from: RedisServer; to: RedisServer; keys: number }> {
    const migration = await this.beginMigration(slot, options.to)
    const keys = await migration.moveKeys(0.5)
    await options.midway?.()
    const rest = await migration.moveKeys(1)
    await migration.finish()
    return { from: migration.from, to: migration.to, keys: keys + rest }
  }

  /** The same step by step, for a test that needs to hold it open. */
  async beginMigration(slot: number | string, to?: RedisServer): Promise<SlotMigration> {
    const number = typeof slot === 'number' ? slot : slotOfKey(slot)
    const from = await this.masterOf(number)
    const masters = await this.masters()
    const target = to ?? masters.find((node) => node !== from)
    if (target === undefined || target === from)
      throw new StateError('a slot needs another master to move to')
    const lines = await this.#lines()
    const idOf = (node: RedisServer): string => String(lines.find(({ port }) => port === node.port)?.id)
    return startSlotMigration({
      slot: number,
      from,
      to: target,
      fromId: idOf(from),
      toId: idOf(target),
      masters,
      password: this.password
    })
  }

  /** Promotes a replica of a node in good order (CLUSTER FAILOVER); resolves with the new master. */
  async failover(key: string | number): Promise<RedisServer> {
    const old = await this.masterOf(key)
    const replica = await this.replicaOf(old)
    await replica.command('CLUSTER', 'FAILOVER')
    await this.waitForFailover(old)
    return replica
  }

  /** Waits until `old` owns no slots, and every slot has a running owner that all nodes agree on. */
  async waitForFailover(old: RedisServer, timeout = 60_000): Promise<void> {
    await until(
      async () => {
        const line = (await this.#lines(old)).find(({ port }) => port === old.port)
        return line === undefined || line.ranges.length === 0 || line.flags.includes('fail')
          ? this.#agrees()
          : false
      },
      { timeout, interval: 20, message: `the cluster has taken the slots of port ${old.port} over` }
    )
  }

  /** Waits until all running nodes answer `cluster_state:ok`, agree on the owners, and replicas are in step. */
  async waitForHealth(timeout = 30_000): Promise<void> {
    await until(() => this.#agrees(true), { timeout, interval: 15, message: 'the cluster is whole' })
  }

  async stop(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.stop()))
  }

  async #agrees(replicasToo = false): Promise<boolean> {
    const running = this.nodes.filter((node) => node.running)
    const views = await Promise.all(
      running.map(async (node) => {
        const info = String(await node.command('CLUSTER', 'INFO'))
        if (!info.includes('cluster_state:ok') || !info.includes(`cluster_slots_ok:${slots}`)) return node.url
        if (replicasToo) {
          if (!info.includes(`cluster_known_nodes:${this.nodes.length}`)) return node.url
          const replication = await node.info('replication')
          if (replication['role'] === 'slave' && replication['master_link_status'] !== 'up') return node.url
        }
        return parse(String(await node.command('CLUSTER', 'NODES')))
          .filter((line) => isMaster(line) && line.ranges.length > 0)
          .map(({ port, ranges }) => `${port}:${ranges.join(' ')}`)
          .sort()
          .join(';')
      })
    )
    return new Set(views).size === 1 && !String(views[0]).startsWith('redis')
  }

  /** The view of a running node, another one than `besides` where there is a choice. */
  async #lines(besides?: RedisServer): Promise<NodeLine[]> {
    const candidates = this.nodes.filter((node) => node.running)
    candidates.sort((a, b) => Number(a === besides) - Number(b === besides))
    let cause: unknown
    for (const node of candidates) {
      try {
        return parse(String(await node.command('CLUSTER', 'NODES')))
      } catch (error) {
        cause = error
      }
    }
    const error = new StateError('no node of the cluster answers')
    error.cause = cause
    throw error
  }

  #node(port: number | undefined, what: string): RedisServer {
    const node = this.nodes.find((one) => one.port === port)
    if (node === undefined) throw new StateError(`the cluster has no ${what}`)
    return node
  }
}

/** Starts a Redis Cluster of `masters * (1 + replicas)` nodes; ready in about a second. */
export function startCluster(options?: ClusterOptions): Promise<RedisCluster> {
  return RedisCluster.start(options)
}

/** What `redis-cli --cluster create` does, without its pauses. */
async function form(nodes: RedisServer[], masters: number, replicas: number): Promise<void> {
  const [first] = nodes
  if (first === undefined) throw new StateError('a cluster needs at least one master')
  await Promise.all(
    nodes.map(async (node, index) => {
      await node.command('CLUSTER', 'SET-CONFIG-EPOCH', index + 1)
      if (index >= masters) return
      const low = Math.floor((index * slots) / masters)
      await node.command('CLUSTER', 'ADDSLOTSRANGE', low, Math.floor(((index + 1) * slots) / masters) - 1)
    })
  )
  // Everybody meets everybody, so that nobody waits for gossip.
  for (const [index, node] of nodes.entries()) {
    for (const other of nodes.slice(index + 1)) {
      await node.command('CLUSTER', 'MEET', other.host, other.port, String(other.busPort))
    }
  }
  const ids = await Promise.all(nodes.map(async (node) => String(await node.command('CLUSTER', 'MYID'))))
  await Promise.all(
    nodes.slice(masters).map((node, index) =>
      until(
        async () => {
          await node.command('CLUSTER', 'REPLICATE', String(ids[Math.floor(index / replicas)]))
          return true
        },
        { timeout: 20_000, interval: 15, message: 'a replica knows its master' }
      )
    )
  )
}

function parse(text: string): NodeLine[] {
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const [id = '', address = '', flags = '', masterId = '', , , , link, ...ranges] = line.split(' ')
      const port = Number(/:(\d+)/.exec(address)?.[1])
      const owned = ranges.filter((range) => !range.startsWith('['))
      return { id, port, flags: flags.split(','), masterId, linked: link === 'connected', ranges: owned }
    })
}

function isMaster({ flags }: NodeLine): boolean {
  return flags.includes('master') && !flags.includes('fail')
}

function owns({ ranges }: NodeLine, slot: number): boolean {
  return ranges.some((range) => {
    const [low = 0, high = low] = range.split('-').map(Number)
    return slot >= low && slot <= high
  })
}
