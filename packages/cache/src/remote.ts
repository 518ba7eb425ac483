import { channelPrefixOf, isCluster, waitForReplicas, type RedisClient } from '@flotilla/redis'
import type { Breaker } from './breaker.js'
import { localNow, type RedisTime } from './clock.js'
import { ReplicasError } from './errors.js'
import type { KeyNames } from './keys.js'
import { acquire, COOL, VALUE, WAIT, type AcquireReply } from './lua/acquire.js'
import { fill } from './lua/fill.js'
import { extendLease, releaseLease } from './lua/lease.js'
import { establishMarks, raiseMarks } from './lua/mark.js'
import { deleteEntry, setEntry } from './lua/write.js'
import type { Mark, Marks } from './marks.js'

/** One key of one namespace, under its names in memory and in Redis. */
export interface Address {
  readonly ns: string
  readonly key: string
  /** In memory and in this process. */
  readonly id: string
  readonly entryKey: string
  readonly leaseKey: string
}

export type Acquired =
  | { state: 'value'; bytes: Buffer }
  /**
   * `bytes` is the entry that was known to be of no use, if it is still there: for grace. `began` is the time of Redis in
   * microseconds.
   */
  | { state: 'token'; bytes: Buffer | undefined; began: number }
  | { state: 'cool'; bytes: Buffer | undefined }
  | { state: 'wait'; leaseMs: number }

export interface RemoteSettings {
  lease: number
  /** How long marks are kept, in milliseconds: longer than any entry lives. */
  markLife: number
  clockSkew: number
  /** How long replicas are waited for, in milliseconds. */
  replicaTimeout: number
}

const MARKS_PER_SCRIPT = 500

/**
 * What the cache asks of Redis, each in one round trip. Marks travel with the question where all keys are on one
 * server; on a Cluster they lie in other slots and are asked beside it, in the same turn.
 */
export class Remote {
  readonly cluster: boolean
  readonly #client: RedisClient
  readonly #breaker: Breaker
  readonly #names: KeyNames
  /** The channel for fills, as a script publishes to it: ioredis puts no prefix before an argument. */
  readonly #filled: string
  readonly #marks: Marks
  readonly #time: RedisTime
  readonly #settings: RemoteSettings

  constructor(parts: {
    client: RedisClient
    breaker: Breaker
    names: KeyNames
    marks: Marks
    time: RedisTime
    settings: RemoteSettings
  }) {
    this.cluster = isCluster(parts.client)
    this.#client = parts.client
    this.#breaker = parts.breaker
    this.#names = parts.names
    this.#filled = channelPrefixOf(parts.client) + parts.names.filled
    this.#marks = parts.marks
    this.#time = parts.time
    this.#settings = parts.settings
  }

  get away(): boolean {
    return this.#breaker.open
  }

  /** How far apart the clocks behind `began` and a mark may be, in microseconds. */
  get skew(): number {
    return this.cluster ? this.#settings.clockSkew * 1000 : 0
  }

  /** Reads an entry or takes its lease; learns `marks`. `seen` is the stamp of an entry that is of no use, or `*`: none is. */
  acquire(
    address: Address,
    token: string,
    seen: Buffer | '*' | '',
    marks: readonly Mark[]
  ): Promise<Acquired> {
    return this.#breaker.run('acquire', async () => {
      const keys = [address.entryKey, address.leaseKey]
      const beside = this.cluster ? this.#ask(marks) : undefined
      if (!beside) for (const mark of marks) keys.push(mark.name)
      const sentAt = localNow()
      const { lease, markLife } = this.#settings
      const args = [token, lease, seen, this.#time.due ? '1' : '', markLife]
      const asked = acquire(keys.length).runBuffer<AcquireReply>(this.#client, keys, args)
      const reply = beside ? (await Promise.all([asked, beside]))[0] : await asked
      if (!beside)
        for (let i = 0; i < marks.length; i++) this.#marks.learn(marks[i]!, reply[i + 4]?.toString() ?? '0')
      const [state, payload, seconds, micros] = reply
      const began = seconds ? Number(seconds.toString()) * 1e6 + Number(micros?.toString()) : 0
      if (seconds) this.#time.learn(began / 1000, sentAt)
      if (state === VALUE) return { state: 'value', bytes: payload! }
      if (state === WAIT) return { state: 'wait', leaseMs: Number(payload?.toString()) }
      const bytes = payload ?? undefined
      return state === COOL ? { state: 'cool', bytes } : { state: 'token', bytes, began }
    })
  }

  /** The stored bytes of each address, and the current value of `marks`, which it learns. */
  read(addresses: readonly Address[], marks: readonly Mark[]): Promise<(Buffer | null)[]> {
    return this.#breaker.run('read', async () => {
      if (this.cluster) {
        const [entries] = await Promise.all([
          Promise.all(addresses.map((one) => this.#client.getBuffer(one.entryKey))),
          this.#ask(marks)
        ])
        return entries
      }
      const keys = [...addresses.map((one) => one.entryKey), ...marks.map((mark) => mark.name)]
      if (keys.length === 1) return [await this.#client.getBuffer(keys[0]!)]
      const replies = await this.#client.mgetBuffer(keys)
      await this.#take(
        marks,
        replies.slice(addresses.length).map((reply) => reply?.toString() ?? null)
      )
      return replies.slice(0, addresses.length)
    })
  }

  /** Asks Redis for marks and learns them. */
  learn(marks: readonly Mark[]): Promise<void> {
    return marks.length === 0 ? Promise.resolve() : this.#breaker.run('marks', () => this.#ask(marks))
  }

  /**
   * Stores a computed entry where its lease stands and no mark is above its stamp.
   * `lease`: an invalidation or another process took the lease; `marked`: a tag or generation was invalidated.
   */
  fill(
    address: Address,
    token: string,
    bytes: Buffer,
    life: number,
    marks: readonly Mark[],
    stamps: readonly number[]
  ): Promise<'stored' | 'lease' | 'marked'> {
    return this.#breaker.run('fill', async () => {
      const beside = this.cluster ? this.#ask(marks, true) : undefined
      const keys = [address.entryKey, address.leaseKey, ...(beside ? [] : marks.map((mark) => mark.name))]
      const { markLife } = this.#settings
      const args = [token, bytes, Math.ceil(life), this.#filled, address.leaseKey, markLife]
      const [reply] = await Promise.all([
        fill(keys.length).run(this.#client, keys, beside ? args : [...args, ...stamps]),
        beside
      ])
      if (reply === 0) return 'lease'
      if (reply === -1) return 'marked'
      if (beside && marks.some((mark, i) => mark.value > stamps[i]!)) {
        // The marks are on other nodes: readers refuse the entry by its stamps, and here it goes.
        await this.#delete(address, bytes.subarray(0, 18))
        return 'marked'
      }
      return 'stored'
    })
  }

  async extend(address: Address, token: string): Promise<boolean> {
    const reply = await this.#breaker.run('extend', () =>
      extendLease.run(this.#client, [address.leaseKey], [token, this.#settings.lease])
    )
    return reply === 1
  }

  /** Gives the lease back; for `coolMs` nobody in the fleet takes it again. */
  async release(address: Address, token: string, coolMs = 0): Promise<void> {
    await this.#breaker.run('release', () =>
      releaseLease.run(
        this.#client,
        [address.leaseKey],
        [token, Math.ceil(coolMs), this.#filled, address.leaseKey]
      )
    )
  }

  /** Stores a value given by hand; false if a mark is missing or has moved past its stamp: ask for the marks, then try again. */
  set(
    address: Address,
    bytes: Buffer,
    life: number,
    { marks, stamps }: { marks: readonly Mark[]; stamps: readonly number[] }
  ): Promise<boolean> {
    return this.#breaker.run('set', async () => {
      const beside = this.cluster ? this.#ask(marks, true) : undefined
      const keys = [address.entryKey, address.leaseKey, ...(beside ? [] : marks.map((mark) => mark.name))]
      const { markLife } = this.#settings
      const args = [bytes, Math.ceil(life), this.#filled, address.leaseKey, markLife]
      const [reply] = await Promise.all([
        setEntry(keys.length).run(this.#client, keys, beside ? args : [...args, ...stamps]),
        beside
      ])
      return reply === 1 && (!beside || marks.every((mark, i) => mark.value <= stamps[i]!))
    })
  }

  /** @param attempt also while the breaker is open: for what is sent again on recovery */
  async delete(address: Address, attempt = false): Promise<boolean> {
    const reply = await this.#breaker[attempt ? 'attempt' : 'run']('delete', () => this.#delete(address, ''))
    return reply === 1
  }

  /**
   * Raises marks by the clock of their server; the new values in the order of `names`.
   *
   * @param attempt as a probe of a breaker that is open
   * @param optional of `names`, those that stay missing if they are: what depends on a missing mark is dead
   */
  raise(
    names: readonly string[],
    after: string | undefined,
    attempt = false,
    optional: ReadonlySet<string> = new Set()
  ): Promise<number[]> {
    return this.#breaker[attempt ? 'attempt' : 'run']('mark', async () => {
      const batch = this.cluster ? 1 : MARKS_PER_SCRIPT
      const runs: Promise<string[]>[] = []
      for (let i = 0; i < names.length; i += batch) {
        const keys = names.slice(i, i + batch)
        const flags = keys.map((key) => (optional.has(key) ? '1' : ''))
        runs.push(
          raiseMarks(keys.length).run(this.#client, keys, [this.#settings.markLife, after ?? '', ...flags])
        )
      }
      return (await Promise.all(runs)).flat().map(Number)
    })
  }

  /**
   * Resolves when that many replicas of each node that has one of these keys hold what was written to it.
   * @throws FLOTILLA_CACHE_ERR_REPLICAS
   */
  async replicated(keys: readonly string[], replicas: number): Promise<void> {
    const nodes = this.cluster ? keys : keys.slice(0, 1)
    const timeout = this.#settings.replicaTimeout
    try {
      await Promise.all(nodes.map((key) => waitForReplicas(this.#client, { key, replicas, timeout })))
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      throw Object.assign(new ReplicasError(replicas, reason), { cause: error })
    }
  }

  /** The remaining lease, its holder's token, and how long the entry lives: for people. */
  inspect(address: Address): Promise<{ lease: string | null; leaseMs: number; lifeMs: number }> {
    return this.#breaker.run('inspect', async () => {
      const [lease, leaseMs, lifeMs] = await Promise.all([
        this.#client.get(address.leaseKey),
        this.#client.pttl(address.leaseKey),
        this.#client.pttl(address.entryKey)
      ])
      return { lease, leaseMs, lifeMs }
    })
  }

  /**
   * Asks for what every read needs, of the node that has it: `checkRedis` says of a Cluster that all is well while that one
   * hangs and its failure is not agreed on, and of a server that cannot save (MISCONF) that it cannot be read.
   */
  async ping(): Promise<void> {
    await this.#breaker.attempt('ping', () => this.#client.get(this.#names.generation('')))
  }

  #delete(address: Address, stamp: Buffer | ''): Promise<number> {
    return deleteEntry.run(
      this.#client,
      [address.entryKey, address.leaseKey],
      [this.#filled, address.leaseKey, stamp]
    )
  }

  /** @param prolong on a Cluster: also makes the marks live as long as an entry that is stored now may */
  async #ask(marks: readonly Mark[], prolong = false): Promise<void> {
    if (marks.length === 0) return
    const { markLife } = this.#settings
    const one = (name: string): Promise<string | null> =>
      prolong ? this.#client.getex(name, 'PX', markLife) : this.#client.get(name)
    const replies = this.cluster
      ? await Promise.all(marks.map(({ name }) => one(name)))
      : await this.#client.mget(marks.map((mark) => mark.name))
    await this.#take(marks, replies)
  }

  /** Learns marks from what Redis answered, and has those created that Redis does not have. */
  async #take(marks: readonly Mark[], replies: readonly (string | null)[]): Promise<void> {
    const missing: Mark[] = []
    for (let i = 0; i < marks.length; i++) {
      const reply = replies[i]
      if (typeof reply === 'string') this.#marks.learn(marks[i]!, reply)
      else missing.push(marks[i]!)
    }
    const batch = this.cluster ? 1 : MARKS_PER_SCRIPT
    const runs: Promise<void>[] = []
    for (let i = 0; i < missing.length; i += batch) runs.push(this.#establish(missing.slice(i, i + batch)))
    await Promise.all(runs)
  }

  async #establish(marks: readonly Mark[]): Promise<void> {
    const keys = marks.map((mark) => mark.name)
    const reply = await establishMarks(keys.length).run(this.#client, keys, [this.#settings.markLife])
    marks.forEach((mark, i) => {
      const created = reply[2 * i + 1] === 1
      this.#marks.learn(mark, String(reply[2 * i]), created)
    })
  }
}
