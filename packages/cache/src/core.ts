import { KeyedQueue } from '@flotilla/core'
import type { FastifyBaseLogger } from 'fastify'
import type { Backplane, Invalidation } from './backplane.js'
import { isReply } from './breaker.js'
import type { RedisTime, TurnClock } from './clock.js'
import type { Codec } from './codec.js'
import type { Engine } from './engine.js'
import type { Entry } from './entry.js'
import { RefusedError, ReplicasError } from './errors.js'
import { PATH_TAG, type KeyNames } from './keys.js'
import type { Mark, Marks } from './marks.js'
import type { Memory } from './memory.js'
import type { CacheSettings } from './options.js'
import type { Outbox, Unsent } from './outbox.js'
import { RecentInvalidations } from './recent-invalidations.js'
import { discard, type EntryReader, type Space } from './reader.js'
import type { Address, Remote } from './remote.js'
import { channels } from './telemetry.js'
import type { Ticket, Tickets } from './tickets.js'

/** What all namespaces of one cache share. */
export interface CoreParts {
  settings: CacheSettings
  log: FastifyBaseLogger
  clock: TurnClock
  time: RedisTime
  names: KeyNames
  marks: Marks
  memory: Memory | undefined
  tickets: Tickets
  reader: EntryReader
  engine: Engine
  remote: Remote | undefined
  /** Set where there is Redis. */
  backplane: Backplane | undefined
  outbox: Outbox | undefined
}

/** Between namespace and key in ids: drawn at random, so that no key of the root can look like one. */
const SEPARATOR = ` ${Math.random().toString(36).slice(2)} `

/** Writes and invalidations: Redis, then this process, then the fleet. */
export class Core {
  readonly parts: CoreParts
  readonly #spaces = new Map<string, Space>()
  readonly #recent = new RecentInvalidations()
  /** Writes and deletions of one key reach Redis in the order of the calls. */
  readonly #writes = new KeyedQueue()
  /** Marks that this process is raising in Redis now. */
  readonly #raising = new Map<string, Promise<unknown>>()

  constructor(parts: CoreParts) {
    this.parts = parts
  }

  space(name: string, codec: Codec, early: number): Space {
    const { marks, names } = this.parts
    const known = this.#spaces.get(name)
    if (known?.codec === codec && known.early === early) return known
    const generations = [marks.hold(names.generation(''))]
    if (name !== '') generations.push(marks.hold(names.generation(name)))
    const space = {
      name,
      idPrefix: name === '' ? '' : `${name}${SEPARATOR}`,
      codec,
      early,
      generations,
      stamps: generations.map(() => -1)
    }
    this.#spaces.set(name, space)
    return space
  }

  address(space: Space, key: string): Address {
    const { names } = this.parts
    const entryKey = names.entry(space.name, key)
    return { ns: space.name, key, id: space.idPrefix + key, entryKey, leaseKey: names.lease(entryKey) }
  }

  admit(address: Address, entry: Entry, ticket: Ticket): void {
    const { memory, marks } = this.parts
    // Asked for in this operation: it is as true as when that began.
    entry.epoch = Math.max(entry.epoch, ticket.epoch)
    if (memory?.peek(address) === entry) return
    if (memory && !ticket.spoilt) memory.put(address, entry)
    else discard(entry, marks)
  }

  /** Runs a write of this key when all earlier ones of this process have ended. */
  inTurn<T>(address: Address, write: () => Promise<T>): Promise<T> {
    return this.#writes.run(address.id, write)
  }

  /** @throws FLOTILLA_CACHE_ERR_REFUSED if Redis answered and refused: it is kept and sent again. */
  async delete(addresses: readonly Address[]): Promise<void> {
    const { remote, outbox } = this.parts
    this.#forget(addresses)
    this.tellKeys(addresses)
    if (!remote) return
    const ends = await Promise.allSettled(
      addresses.map((address) => this.inTurn(address, () => this.#delete(address)))
    )
    const failed = addresses.filter((_, i) => ends[i]!.status === 'rejected')
    if (failed.length > 0) outbox?.addKeys(failed)
    const taken = addresses.filter((_, i) => ends[i]!.status === 'fulfilled')
    this.#recent.add({ keys: taken })
    await this.announceKeys(taken)
    throwIfRefused('to delete', ends.find((end) => end.status === 'rejected')?.reason)
  }

  async #delete(address: Address): Promise<void> {
    try {
      await this.parts.remote!.delete(address)
    } finally {
      // Once more: a read that began before Redis had deleted may have come back in between.
      this.parts.tickets.spoilReads(address.id)
      this.parts.memory?.delete(address)
    }
  }

  /** Tells whoever listens in this process, whether or not Redis can be told. */
  tellKeys(addresses: readonly Address[]): void {
    if (addresses.length === 0 || !channels.invalidate.active) return
    channels.invalidate.publish({ ns: addresses[0]!.ns, keys: addresses.map(({ key }) => key) })
  }

  /** Tells the fleet that these keys have other values now; what cannot be told is told later. */
  async announceKeys(addresses: readonly Address[]): Promise<void> {
    const { backplane, outbox } = this.parts
    const first = addresses[0]
    if (!first || !backplane) return
    const keys = addresses.map((address) => address.key)
    await backplane
      .publish({ ...(first.ns === '' ? {} : { ns: first.ns }), keys })
      .catch(() => outbox?.addKeys(addresses))
  }

  async invalidateTags(tags: readonly string[], after: string | undefined, replicas = 0): Promise<void> {
    const { marks, names, remote, outbox } = this.parts
    channels.invalidate.publish({ ns: '', tags })
    // At once: what this process reads from now on must not be older than this call.
    for (const tag of tags) marks.raiseLocally(names.tag(tag), after)
    if (!remote) return
    try {
      await this.#whileRaising(
        tags.map((tag) => names.tag(tag)),
        this.#raiseTags(tags, after, false)
      )
    } catch (error) {
      outbox?.addTags(tags, after)
      throwIfRefused('to invalidate tags', error)
      if (replicas > 0)
        throw Object.assign(new ReplicasError(replicas, 'Redis did not answer'), { cause: error })
      return
    }
    if (replicas > 0)
      await remote.replicated(
        tags.map((tag) => names.tag(tag)),
        replicas
      )
  }

  async clear(ns: string): Promise<void> {
    const { marks, memory, names, remote, outbox } = this.parts
    channels.invalidate.publish({ ns, all: true })
    marks.raiseLocally(names.generation(ns))
    if (ns === '') memory?.clear()
    if (!remote) return
    try {
      await this.#whileRaising([names.generation(ns)], this.#raiseGeneration(ns, false))
    } catch (error) {
      outbox?.addNamespace(ns)
      throwIfRefused('to clear', error)
    }
  }

  /** Resolves once Redis has taken or refused what this process has done to these marks so far. */
  async raised(marks: readonly Mark[]): Promise<void> {
    if (this.#raising.size === 0) return
    await Promise.allSettled(marks.flatMap(({ name }) => this.#raising.get(name) ?? []))
  }

  async #whileRaising(names: readonly string[], raise: Promise<void>): Promise<void> {
    for (const name of names) this.#raising.set(name, raise)
    try {
      await raise
    } finally {
      for (const name of names) if (this.#raising.get(name) === raise) this.#raising.delete(name)
    }
  }

  /** Sends again what an outage kept back; rejects where it fails again. */
  async send({ keys, tags, namespaces }: Unsent): Promise<void> {
    const { remote, backplane } = this.parts
    if (!remote || !backplane) return
    for (const ns of namespaces) await this.#raiseGeneration(ns, true)
    const byToken = groupBy(tags.keys(), (tag) => tags.get(tag))
    for (const [after, names] of byToken) await this.#raiseTags(names, after, true)
    await Promise.all(keys.map((address) => remote.delete(address, true)))
    for (const [ns, addresses] of groupBy(keys, (address) => address.ns)) {
      await backplane.publish({ ...(ns === '' ? {} : { ns }), keys: addresses.map((one) => one.key) })
    }
  }

  /** Sends again what Redis took lately: a failover may have lost it. What fails is kept for later. */
  async sendRecent(): Promise<void> {
    const recent = this.#recent.all()
    if (recent.keys.length + recent.tags.size + recent.namespaces.size === 0) return
    try {
      await this.send(recent)
    } catch {
      const { outbox } = this.parts
      outbox?.addKeys(recent.keys)
      for (const [tag, after] of recent.tags) outbox?.addTags([tag], after)
      for (const ns of recent.namespaces) outbox?.addNamespace(ns)
    }
  }

  /** What another instance has invalidated. */
  receive(message: Invalidation, from: string): void {
    const { marks, memory, names } = this.parts
    const ns = message.ns ?? ''
    for (const [tag, mark] of message.tags ?? []) marks.raise(names.tag(tag), mark, message.after)
    const space = this.#spaces.get(ns)
    if (space && message.keys)
      this.#forget(message.keys.map((key) => ({ ns, key, id: space.idPrefix + key })))
    if (message.all) {
      if (message.mark !== undefined) marks.raise(names.generation(ns), message.mark)
      if (ns === '') memory?.clear()
    }
    channels.backplane.publish({
      from,
      keys: message.keys?.length ?? 0,
      tags: message.tags?.length ?? 0,
      all: message.all === true
    })
  }

  #forget(addresses: readonly Pick<Address, 'ns' | 'key' | 'id'>[]): void {
    for (const address of addresses) {
      this.parts.tickets.spoil(address.id)
      this.parts.memory?.delete(address)
    }
  }

  async #raiseTags(tags: readonly string[], after: string | undefined, attempt: boolean): Promise<void> {
    const { marks, names, remote, backplane } = this.parts
    // A response has these tags before its handler begins: if there is no mark, nothing of the path is stored or under way.
    const optional = new Set(tags.filter((tag) => tag.startsWith(PATH_TAG)).map((tag) => names.tag(tag)))
    const all = tags.map((tag) => names.tag(tag))
    const values = await remote!.raise(all, after, attempt, optional)
    // One that is sent again may come after what began meanwhile.
    const note = attempt ? 'raise' : 'confirm'
    tags.forEach((tag, i) => marks[note](names.tag(tag), values[i]!, after))
    if (!attempt) this.#recent.add({ tags, after })
    await backplane!.publish({
      tags: tags.map((tag, i) => [tag, values[i]!] as const),
      ...(after === undefined ? {} : { after })
    })
  }

  async #raiseGeneration(ns: string, attempt: boolean): Promise<void> {
    const { marks, names, remote, backplane } = this.parts
    const [mark] = await remote!.raise([names.generation(ns)], undefined, attempt)
    marks[attempt ? 'raise' : 'confirm'](names.generation(ns), mark!)
    if (!attempt) this.#recent.add({ ns })
    await backplane!.publish({ ...(ns === '' ? {} : { ns }), all: true, mark: mark! })
  }
}

/** Replies of a server that is on its way back: as if it did not answer. */
const NOT_YET = /^(LOADING|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|BUSY )/

/** @throws FLOTILLA_CACHE_ERR_REFUSED if Redis answered and refused. If Redis is away, nothing is thrown. */
function throwIfRefused(operation: string, error: unknown): void {
  const cause = error instanceof Error ? error.cause : undefined
  if (isReply(cause) && !NOT_YET.test(cause.message)) {
    throw Object.assign(new RefusedError(operation, cause.message), { cause })
  }
}

function groupBy<T, K>(items: Iterable<T>, keyOf: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>()
  for (const item of items) {
    const group = groups.get(keyOf(item))
    if (group) group.push(item)
    else groups.set(keyOf(item), [item])
  }
  return groups
}
