import { computeMany, type LoadMissing } from './batch.js'
import { localNow, type TurnClock } from './clock.js'
import type { Codec } from './codec.js'
import type { Core } from './core.js'
import type { GetOrSetOptions } from './engine.js'
import { standing, type Entry, type Index } from './entry.js'
import { FactoryTypeError, KeyError, OptionsError, ValueError } from './errors.js'
import { explain, type Explanation } from './explain.js'
import type { Factory } from './factory.js'
import { checkInvalidateOptions, type InvalidateOptions } from './invalidate-options.js'
import type { Marks } from './marks.js'
import {
  checkNames,
  checkTags,
  entryPolicy,
  readCodec,
  type EntryOptions,
  type EntryPolicy
} from './options.js'
import type { Space } from './reader.js'
import type { Address } from './remote.js'
import { statsOf, type CacheStats } from './stats.js'
import { channels } from './telemetry.js'
import { Writer, type SetEntry, type SetOptions } from './writer.js'

const hits = channels.hit

/** The namespace of the response cache. */
export const RESPONSES = 'http'

export interface NamespaceOptions extends EntryOptions {
  /** How values of this namespace are written to Redis. Default: as the cache's. */
  codec?: 'json' | 'msgpack' | Codec
}

/**
 * One namespace of the cache; `app.cache` is the root. `V` is what it holds.
 *
 * Values from memory are handed out as they are, not copied: do not change them.
 */
export class Cache<V = unknown> {
  readonly #core: Core
  readonly #space: Space
  readonly #policy: EntryPolicy
  readonly #codec: Codec
  /** Memory by key; empty if there is no memory. */
  readonly #index: Index
  readonly #marks: Marks
  readonly #clock: TurnClock
  readonly #writer: Writer

  /** @internal */
  constructor(core: Core, name: string, policy: EntryPolicy, codec: Codec) {
    this.#core = core
    this.#policy = policy
    this.#codec = codec
    this.#space = core.space(name, codec, policy.early)
    this.#index = core.parts.memory?.index(name) ?? new Map<string, Entry>()
    this.#marks = core.parts.marks
    this.#clock = core.parts.clock
    this.#writer = new Writer(core, this.#space, policy)
  }

  /** The namespace's name, `''` for the root. */
  get name(): string {
    return this.#space.name
  }

  /**
   * The value, from memory, Redis or the factory. However many callers in however many processes ask at once,
   * the factory runs once; an invalidation while it runs is never undone by what it brings.
   *
   * @throws what the factory threw; FLOTILLA_CACHE_ERR_FACTORY_TIMEOUT; FLOTILLA_CACHE_ERR_DEADLOCK when the
   *   factory asks for its own key; FLOTILLA_CACHE_ERR_VALUE for a value that the codec cannot carry;
   *   FLOTILLA_CACHE_ERR_KEY, _TTL, _TAGS, _OPTIONS, _FACTORY for bad arguments. Never because Redis is away.
   */
  getOrSet<T extends V = V>(key: string, factory: Factory<T, V>, options?: GetOrSetOptions): Promise<T> {
    const entry = this.#index.get(key)
    if (
      entry !== undefined &&
      entry.checked === this.#marks.version &&
      this.#clock.now() < entry.calmUntil &&
      options?.refresh !== true
    ) {
      entry.visited = true
      if (hits.active) hits.publish({ ns: this.#space.name, key, layer: 'memory', stale: false })
      return (entry.resolved ??= Promise.resolve(entry.value)) as Promise<T>
    }
    return this.#compute(key, factory, options)
  }

  #compute<T>(key: string, factory: Factory<T, V>, options: GetOrSetOptions | undefined): Promise<T> {
    if (typeof factory !== 'function') return Promise.reject(new FactoryTypeError(key))
    if (typeof key !== 'string' || key === '') return Promise.reject(notAKey(key))
    const made = this.#core.parts.engine.getOrSet(
      this.#space,
      this.#core.address(this.#space, key),
      factory as Factory<unknown>,
      this.#policy,
      options
    )
    return made as Promise<T>
  }

  /**
   * As `getOrSet` for many keys: what is missing is computed in one call of `loadMissing`. Each key has its own lease, so
   * a key that another caller or process computes meanwhile is not computed twice. Values in the order of the keys.
   *
   * @throws as `getOrSet`, and FLOTILLA_CACHE_ERR_LOADED if `loadMissing` returns something else than a Map, or too few values
   */
  async getOrSetMany<T extends V = V>(
    keys: readonly string[],
    loadMissing: LoadMissing<T, V>,
    options?: GetOrSetOptions
  ): Promise<T[]> {
    if (typeof loadMissing !== 'function') throw new FactoryTypeError(String(keys[0]))
    const { flights } = this.#core.parts.engine
    const addresses = keys.map((key) => this.#address(key))
    const load = loadMissing as LoadMissing<unknown, unknown>
    return computeMany<T>(addresses, load, flights, (key, factory, onWait) =>
      this.getOrSet<T>(key, factory as Factory<T, V>, { ...options, onWait })
    )
  }

  /** The fresh value of memory or Redis, else `undefined`. */
  async get<T extends V = V>(key: string): Promise<T | undefined> {
    const [value] = await this.getMany<T>([key])
    return value
  }

  /** As `get` for many keys in one round trip (one a node on Cluster); values in the order of the keys. */
  async getMany<T extends V = V>(keys: readonly string[]): Promise<(T | undefined)[]> {
    const addresses = keys.map((key) => this.#address(key))
    const values: unknown[] = addresses.map((address) => this.#fresh(address)?.value)
    const missing = addresses.filter((_, i) => values[i] === undefined)
    if (missing.length > 0 && this.#core.parts.remote) {
      const found = await this.#read(missing)
      addresses.forEach((address, i) => (values[i] ??= found.get(address.id)?.value))
    }
    addresses.forEach((address, i) => {
      if (values[i] === undefined && channels.miss.active)
        channels.miss.publish({ ns: this.#space.name, key: address.key })
    })
    return values as (T | undefined)[]
  }

  /** Whether there is a fresh value. */
  async has(key: string): Promise<boolean> {
    return (await this.get(key)) !== undefined
  }

  /** For how many milliseconds the value stays fresh; `undefined` if there is no fresh one. */
  async ttl(key: string): Promise<number | undefined> {
    const address = this.#address(key)
    const found = this.#fresh(address)
    const entry = found ?? (this.#core.parts.remote && (await this.#read([address])).get(address.id))
    return entry && Math.max(0, entry.freshUntil - localNow())
  }

  /** The fresh value that this process holds in memory, without asking Redis: synchronous. */
  peek<T extends V = V>(key: string): T | undefined {
    const entry = this.#index.get(key)
    if (entry === undefined) return undefined
    if (entry.checked !== this.#marks.version && standing(entry, this.#marks) !== 'alive') return undefined
    const now = this.#clock.now()
    if (now >= entry.calmUntil && now >= entry.freshUntil) return undefined
    entry.visited = true
    return entry.value as T
  }

  /**
   * Stores a value, in place of one that a factory may be computing. A `ttl` of 0 deletes.
   * @throws FLOTILLA_CACHE_ERR_VALUE for `undefined` and for what the codec cannot carry
   */
  async set(key: string, value: V, options?: SetOptions): Promise<void> {
    await this.setMany([{ ...options, key, value }])
  }

  /**
   * Stores a value if none can be served; of many callers in the fleet (while Redis is away: in this process) one does.
   * @returns whether it was this one
   */
  async add(key: string, value: V, options?: SetOptions): Promise<boolean> {
    if (value === undefined) throw new ValueError(key, 'undefined means "none"')
    let added = false
    const factory: Factory<V> = (context) => {
      if (context.background) context.skip()
      else added = true
      return value
    }
    await this.getOrSet(key, factory, options)
    return added
  }

  /** As `set` for many entries, in one round trip and one message to the fleet. */
  async setMany(entries: readonly SetEntry<V>[], options?: SetOptions): Promise<void> {
    const addresses = entries.map(({ key }) => this.#address(key))
    await this.#writer.setMany(
      addresses,
      options ? entries.map((entry) => ({ ...options, ...entry })) : entries
    )
  }

  /**
   * Removes the value everywhere. A factory that is computing one meanwhile does not bring it back.
   * @throws FLOTILLA_CACHE_ERR_REFUSED if Redis answered and refused; it is sent again until Redis takes it
   */
  async delete(key: string): Promise<void> {
    await this.#core.delete([this.#address(key)])
  }

  /** As {@link Cache.delete}, for many keys at once. */
  async deleteMany(keys: readonly string[]): Promise<void> {
    await this.#core.delete(keys.map((key) => this.#address(key)))
  }

  /**
   * Makes every entry with one of these tags a miss, in all namespaces and on all instances; one mark a tag, however
   * many entries have it. A factory that is running keeps its caller's value and stores nothing.
   * @throws FLOTILLA_CACHE_ERR_REFUSED if Redis answered and refused; it is sent again until Redis takes it.
   *   FLOTILLA_CACHE_ERR_REPLICAS if fewer than `replicas` have it in time; the master has it all the same
   */
  async invalidateTags(tags: readonly string[], options: InvalidateOptions = {}): Promise<void> {
    const names = checkTags(tags)
    const { after, replicas } = checkInvalidateOptions(options)
    if (names.length > 0) await this.#core.invalidateTags(names, after, replicas)
  }

  /**
   * Makes every entry of this namespace a miss, or of all for the root: one mark, whatever the number of entries.
   * @throws FLOTILLA_CACHE_ERR_REFUSED if Redis answered and refused; it is sent again until Redis takes it
   */
  async clear(): Promise<void> {
    await this.#core.clear(this.#space.name)
  }

  /**
   * A part with its own keys and defaults. Names are joined by `/` when nested. `http` is the response cache's own.
   * @throws FLOTILLA_CACHE_ERR_OPTIONS
   */
  namespace<T extends V = V>(name: string, defaults: NamespaceOptions = {}): Cache<T> {
    if (typeof name !== 'string' || name === '') {
      throw new OptionsError(`@flotilla/cache: a namespace needs a name`)
    }
    const full = this.#space.name === '' ? name : `${this.#space.name}/${name}`
    if (full === RESPONSES) {
      throw new OptionsError(
        `@flotilla/cache: namespace '${full}' is where responses of routes with config.cache are kept; choose another name`
      )
    }
    return this.part<T>(full, defaults)
  }

  /**
   * As {@link Cache.namespace}, also for what the response cache keeps.
   * @internal
   */
  part<T extends V = V>(full: string, defaults: NamespaceOptions): Cache<T> {
    const { codec, ...entry } = defaults
    checkNames(`namespace '${full}'`, entry, ['codec'])
    const fail = (expected: string): never => {
      throw new OptionsError(`@flotilla/cache: 'codec' of namespace '${full}' must be ${expected}`)
    }
    return new Cache<T>(
      this.#core,
      full,
      // Freshness of responses is what their headers say: it is cut, not refused.
      {
        ...entryPolicy(this.#policy, entry),
        ...(full === RESPONSES ? { maxTtl: Number.POSITIVE_INFINITY } : {})
      },
      codec === undefined ? this.#codec : readCodec(codec, fail)
    )
  }

  /** What this process holds and does now, all namespaces together. */
  stats(): CacheStats {
    return statsOf(this.#core.parts)
  }

  /** What memory and Redis hold under this key, and why it would or would not be served. */
  explain(key: string): Promise<Explanation> {
    return explain(this.#core.parts, this.#space, this.#address(key))
  }

  /**
   * What memory holds and no invalidation has touched, also past its ttl.
   * @internal
   */
  held(key: string): Entry | undefined {
    const entry = this.#index.get(key)
    if (entry === undefined || standing(entry, this.#marks) !== 'alive') return undefined
    entry.visited = true
    return entry
  }

  /**
   * Whether this process is reading or computing the value of this key.
   * @internal
   */
  isUnderWay(key: string): boolean {
    return this.#core.parts.engine.flights.get(this.#address(key).id) !== undefined
  }

  #address(key: string): Address {
    if (typeof key !== 'string' || key === '') throw notAKey(key)
    return this.#core.address(this.#space, key)
  }

  #fresh(address: Address): Entry | undefined {
    const { memory, marks, clock, remote } = this.#core.parts
    const entry = memory?.get(address)
    if (!entry || clock.now() >= entry.freshUntil) return undefined
    const state = standing(entry, marks)
    if (state === 'dead' || (state === 'suspect' && !remote?.away)) return undefined
    if (hits.active) hits.publish({ ns: this.#space.name, key: address.key, layer: 'memory', stale: false })
    return entry
  }

  async #read(addresses: readonly Address[]): Promise<Map<string, Entry>> {
    const { memory, reader, remote, tickets } = this.#core.parts
    const found = new Map<string, Entry>()
    const spoils = addresses.map(({ id }) => tickets.begin(id))
    try {
      const replies = await remote!.read(addresses, this.#space.generations)
      for (const [i, address] of addresses.entries()) {
        const bytes = replies[i]
        const entry = bytes && (await reader.open(this.#space, address, bytes, memory?.peek(address)))
        if (!entry) continue
        this.#core.admit(address, entry, spoils[i]!)
        if (localNow() >= entry.freshUntil) continue
        found.set(address.id, entry)
        if (hits.active)
          hits.publish({ ns: this.#space.name, key: address.key, layer: 'redis', stale: false })
      }
    } catch (error) {
      // Redis is away: what memory does not have is a miss.
      if ((error as { code?: string }).code !== 'FLOTILLA_CACHE_ERR_REDIS_AWAY') throw error
    } finally {
      for (const ticket of spoils) tickets.end(ticket)
    }
    return found
  }
}

function notAKey(key: unknown): Error {
  return new KeyError(key === '' ? "''" : typeof key)
}
