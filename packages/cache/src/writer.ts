import type { Core } from './core.js'
import type { Lifetime } from './entry.js'
import { ValueError } from './errors.js'
import { lifetime } from './fill.js'
import type { Mark } from './marks.js'
import { checkNames, checkTags, entryPolicy, type EntryOptions, type EntryPolicy } from './options.js'
import { newEntry, type Space } from './reader.js'
import type { Address } from './remote.js'
import { newVersion } from './wire.js'

export interface SetOptions extends EntryOptions {
  /** Whoever invalidates one of these invalidates the entry. */
  tags?: readonly string[]
}

export interface SetEntry<V = unknown> extends SetOptions {
  /** The key within the namespace. */
  key: string
  /** What is stored, as the codec can carry it. */
  value: V
}

/** What {@link SetEntry} has besides {@link EntryOptions}. */
const SET_NAMES = ['key', 'value', 'tags'] as const satisfies readonly (keyof SetEntry)[]

/** How often a value is written again because one of its marks turned out newer in Redis than here. */
const MAX_SETS = 3

/** One value to be stored. */
interface Write {
  readonly address: Address
  readonly value: unknown
  readonly life: Lifetime
  readonly tags: readonly string[]
  readonly depends: readonly Mark[]
}

/** What became of it. */
interface Stored {
  /** Whether Redis has answered. */
  readonly taken: boolean
  /** The value as any other process reads it. */
  readonly kept: unknown
  readonly version: string
  readonly size: number | undefined
  readonly stamps: readonly number[]
}

/** `taken`: by Redis, so the fleet is to be told; `kept`: in memory alone, and sent again later. */
type WriteEnd = 'taken' | 'kept' | 'deleted'

/** Stores the values that callers give to one namespace. */
export class Writer {
  readonly #core: Core
  readonly #space: Space
  readonly #policy: EntryPolicy

  constructor(core: Core, space: Space, policy: EntryPolicy) {
    this.#core = core
    this.#space = space
    this.#policy = policy
  }

  /** Stores all that it can, and then throws for the first that it cannot. */
  async setMany(addresses: readonly Address[], entries: readonly SetEntry[]): Promise<void> {
    const ends = await Promise.allSettled(entries.map((entry, i) => this.#write(addresses[i]!, entry)))
    // Also where one of them cannot be stored: the others have other values now.
    const that = (...wanted: WriteEnd[]): Address[] =>
      addresses.filter((_, i) => {
        const end = ends[i]!
        return end.status === 'fulfilled' && wanted.includes(end.value)
      })
    this.#core.tellKeys(that('taken', 'kept'))
    await this.#core.announceKeys(that('taken'))
    const failed = ends.find((end) => end.status === 'rejected')
    if (failed) throw failed.reason
  }

  async #write(address: Address, { value, tags: given, ...options }: SetEntry): Promise<WriteEnd> {
    const { marks, memory, names, remote, settings, tickets } = this.#core.parts
    if (value === undefined) throw new ValueError(address.key, 'undefined means "none"; use delete')
    checkNames('set', options, SET_NAMES)
    const policy = entryPolicy(this.#policy, options)
    const tags = checkTags(given)
    const life = lifetime(policy, value, { ttlMs: undefined }, 0, settings.maxTtl)
    if (!life) {
      await this.#core.delete([address])
      return 'deleted'
    }
    tickets.spoil(address.id)
    const ticket = tickets.begin(address.id)
    const depends = [...this.#space.generations, ...tags.map((tag) => names.tag(tag))].map((mark) =>
      marks.hold(typeof mark === 'string' ? mark : mark.name)
    )
    try {
      if (remote) await remote.learn(depends.filter((mark) => !mark.known)).catch(() => undefined)
      const write = { address, value, life, tags, depends }
      const { taken, kept, version, size, stamps } = await this.#store(write)
      tickets.spoil(address.id, ticket)
      const entry = newEntry(this.#space, address, kept, version, life, depends, stamps, tags, size)
      this.#core.admit(address, entry, ticket)
      return taken ? 'taken' : 'kept'
    } catch (error) {
      for (const mark of depends) marks.release(mark)
      throw error
    } finally {
      tickets.end(ticket)
      if (ticket.spoilt) memory?.delete(address)
    }
  }

  /** Writes to Redis, if there is one. The stamps are for Redis and memory: an invalidation from here on comes after this value. */
  async #store({ address, value, life, tags, depends }: Write): Promise<Stored> {
    const { marks, outbox, reader, remote } = this.#core.parts
    const began = marks.heard
    for (let attempt = 1; ; attempt++) {
      const stamps = depends.map((mark) => mark.value)
      if (!remote) return { taken: false, kept: value, version: newVersion(), size: undefined, stamps }
      const coded = await reader.encode(this.#space, address.key, value, life, tags, stamps)
      const ms = Math.max(life.freshUntil, life.staleUntil, life.graceUntil) - Date.now()
      const stored = { kept: coded.value, version: coded.version, size: coded.size, stamps }
      try {
        if (await remote.set(address, coded.bytes, Math.max(1, ms), { marks: depends, stamps })) {
          return { ...stored, taken: true }
        }
        // Redis lost a mark and has a new one; or the tag was invalidated, and only if that came first does the value stand.
        const invalidated = depends.some((mark) => mark.heard > began)
        if (invalidated || attempt === MAX_SETS) return { ...stored, taken: true }
        await remote.learn(depends)
      } catch {
        outbox?.addKeys([address])
        return { ...stored, taken: false }
      }
    }
  }
}
