import { withTimeout } from '@flotilla/core'
import type { Redis } from 'ioredis'
import { dedicatedConnection, drop } from './dedicated-connection.js'
import { RedisNotDurableError } from './errors.js'
import { addressOf, commandTimeoutOf, isCluster, keyPrefixOf, type RedisClient } from './redis-client.js'
import { isMasterReplaced } from './sentinel-view.js'
import { slotOf } from './slots.js'

interface Waiter {
  /** The key of the write, as Redis knows it. */
  readonly wire: string
  /** The server that took the write. */
  readonly server: string | undefined
  readonly replicas: number
  readonly deadline: number
  acknowledged: number
  readonly settle: (outcome: { error: unknown } | { next: string | undefined }) => void
}

/** Longest single WAIT: those who come meanwhile wait for its end. */
const ROUND = 200
const CONNECT_TIMEOUT = 3_000
/** The connection ends when nobody has waited for this long. */
const IDLE = 10_000
/** A node that owns one slot of 16,384 is found by then. */
const MAX_TRIES = 200_000

/**
 * WAIT counts what its own connection wrote last. This one writes a mark and removes it: the stream to the
 * replicas is ordered, so a replica that has the mark has all that was written before it, by whomever.
 *
 * KEYS[1] the mark. Replies nothing.
 */
const MARK = `redis.call('SET', KEYS[1], '') redis.call('DEL', KEYS[1])`

/** Waits for replicas of one master, over a connection of its own, for all who ask at the same time. */
export class ReplicaWait {
  readonly #client: RedisClient
  readonly #node: string
  readonly #onIdle: () => void
  readonly #waiting = new Set<Waiter>()
  /** How long an answer may take, in milliseconds. */
  readonly #patience: number
  #connection: Redis | undefined
  #mark = ''
  #running = false
  #idle: NodeJS.Timeout | undefined
  readonly #close = (): void => this.#end(new Error('the client has been closed'))

  constructor(client: RedisClient, node: string, onIdle: () => void) {
    this.#client = client
    this.#node = node
    this.#onIdle = onIdle
    this.#patience = Math.max(2_000, commandTimeoutOf(client))
    client.once('end', this.#close)
  }

  /**
   * Sets how many replicas of this node confirmed it, also where it throws.
   * @returns another node that has to be asked as well, where the slot of the key is moving there
   */
  async join(asked: {
    wire: string
    server: string | undefined
    replicas: number
    timeout: number
    acknowledged: number
  }): Promise<string | undefined> {
    const { wire, server, replicas, timeout } = asked
    clearTimeout(this.#idle)
    const started = performance.now()
    let waiter: Waiter | undefined
    const done = new Promise<string | undefined>((resolve, reject) => {
      waiter = {
        wire,
        server,
        replicas,
        deadline: started + timeout,
        acknowledged: 0,
        settle: (outcome) => ('error' in outcome ? reject(outcome.error) : resolve(outcome.next))
      }
      this.#waiting.add(waiter)
    })
    if (!this.#running) void this.#run()
    try {
      return await withTimeout(done, timeout, { timeoutError: () => new Error('not in time') })
    } catch (error) {
      throw new RedisNotDurableError(
        `@flotilla/redis: ${waiter?.acknowledged ?? 0} of ${replicas} replicas confirmed the write: ${(error as Error).message}`,
        { cause: error }
      )
    } finally {
      if (waiter) this.#waiting.delete(waiter)
      asked.acknowledged = waiter?.acknowledged ?? 0
    }
  }

  async #run(): Promise<void> {
    this.#running = true
    while (this.#waiting.size > 0) {
      // Those who join while a round is on its way wrote after its mark: they are for the next.
      const round = [...this.#waiting]
      try {
        // A server that does not answer must not hold up the waiters that come later.
        const connection = await withTimeout(this.#open(), CONNECT_TIMEOUT)
        await withTimeout(this.#round(connection, round), ROUND + this.#patience)
      } catch (error) {
        // The master may have been replaced, and then the new one says nothing about these writes.
        this.#drop()
        for (const waiter of round) this.#settle(waiter, { error })
      }
    }
    this.#running = false
    this.#idle = setTimeout(() => this.#end(new Error('idle')), IDLE).unref()
  }

  async #round(connection: Redis, all: readonly Waiter[]): Promise<void> {
    const here = addressOf(connection)
    const round = all.filter((waiter) => {
      if (waiter.server === undefined || waiter.server === here) return true
      const error = new Error(`${waiter.server} took it, and ${here} is the master now`)
      this.#settle(waiter, { error })
      return false
    })
    if (round.length === 0) return
    const left = Math.max(...round.map(({ deadline }) => deadline)) - performance.now()
    const ms = Math.max(1, Math.min(ROUND, Math.ceil(left)))
    const counts = [...new Set(round.map(({ replicas }) => replicas))].sort((a, b) => a - b)
    const wires = isCluster(this.#client) ? [...new Set(round.map(({ wire }) => wire))] : []
    const pipeline = connection.pipeline()
    // A node that is giving a slot away, or has, says so where it does not have the key.
    for (const wire of wires) pipeline.exists(wire)
    pipeline.eval(MARK, 1, (this.#mark ||= this.#findMark()))
    for (const count of counts) pipeline.wait(count, ms)
    const results = (await pipeline.exec()) ?? []

    const mark = results[wires.length]?.[0]
    if (mark && redirection(mark)) {
      // The mark's own slot is moving: the next round takes another.
      this.#mark = ''
      return
    }
    const waits = results.slice(wires.length + 1)
    const failure = mark ?? waits.find(([error]) => error)?.[0]
    if (failure) throw failure
    const reached = Math.max(...waits.map(([, count]) => Number(count)))
    const redirections = new Map(wires.map((wire, n) => [wire, redirection(results[n]?.[0])]))
    // A replica's word counts only while its master is the one that the others will follow.
    if (
      round.some(({ replicas }) => reached >= replicas) &&
      (await isMasterReplaced(this.#client, connection))
    ) {
      throw new Error(`Sentinel puts another master in the place of ${here}`)
    }
    for (const waiter of round) {
      waiter.acknowledged = reached
      const { moved = false, node } = redirections.get(waiter.wire) ?? {}
      if (moved || reached >= waiter.replicas) this.#settle(waiter, { next: node })
    }
  }

  async #open(): Promise<Redis> {
    if (this.#connection?.status === 'ready') return this.#connection
    this.#drop()
    // WAIT takes as long as it is told to; the waiters have limits of their own.
    const connection = dedicatedConnection(this.#client, this.#node, {
      connectionName: 'flotilla-durability',
      commandTimeout: undefined
    })
    connection.on('error', () => {})
    this.#connection = connection
    await connection.connect()
    return connection
  }

  #settle(waiter: Waiter, outcome: Parameters<Waiter['settle']>[0]): void {
    if (this.#waiting.delete(waiter)) waiter.settle(outcome)
  }

  /** A key that this node serves: any will do, under the prefix of the client, beside which an ACL may allow nothing. */
  #findMark(): string {
    const client = this.#client
    const prefix = keyPrefixOf(client)
    const mark = `${prefix}flotilla:durable`
    if (!isCluster(client)) return mark
    const isServed = (key: string): boolean => client.slots[slotOf(key)]?.[0] === this.#node
    if (isServed(mark)) return mark
    // A hash tag in the prefix leaves no choice of the slot, and this one is another node's: it is moving.
    const start = slotOf(`${prefix}a`) === slotOf(`${prefix}b`) ? '' : prefix
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const name = `${start}flotilla:durable:{${Math.floor(Math.random() * 1e9)}}`
      if (isServed(name)) return name
    }
    throw new Error(`the node ${this.#node} owns no slots`)
  }

  #drop(): void {
    if (this.#connection) drop(this.#connection)
    this.#connection = undefined
    this.#mark = ''
  }

  #end(error: Error): void {
    clearTimeout(this.#idle)
    this.#client.off('end', this.#close)
    this.#drop()
    for (const waiter of this.#waiting) this.#settle(waiter, { error })
    this.#onIdle()
  }
}

function redirection(error: Error | null | undefined): { moved: boolean; node: string } | undefined {
  const match = /^(MOVED|ASK) \d+ (\S+)/.exec(error?.message ?? '')
  return match ? { moved: match[1] === 'MOVED', node: match[2]! } : undefined
}
