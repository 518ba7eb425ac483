import { localNow } from './clock.js'
import type { Core } from './core.js'
import type { Lifetime } from './entry.js'
import { ValueError } from './errors.js'
import { lifetime } from './fill.js'
import type { Mark } from './marks.js'
import { checkNames, checkTags, entryPolicy, type EntryOptions, type EntryPolicy } from './options.js'
import { newEntry, type Coded, type Space } from './reader.js'
import type { Address } from './remote.js'
import type { Ticket } from './tickets.js'
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
  readonly coded: Coded
  readonly life: Lifetime
  readonly tags: readonly string[]
  readonly ticket: Ticket
  /** Held until the entry takes them over. */
  readonly depends: readonly Mark[]
  /** The marks as they were known at the call. */
  readonly stamps: readonly number[]
  /** The {@link Marks.heard} of the call: what is invalidated from then on comes after this value. */
  readonly heard: number
}

/** What became of it. */
interface Stored {
  readonly end: 'taken' | 'kept' | 'invalidated'
  readonly version: string
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

  /** The checks come first and everything up to the turn happens within the call: later calls come after it. */
  async #write(address: Address, { value, tags: given, ...options }: SetEntry): Promise<WriteEnd> {
    const { marks, names, reader, settings, tickets } = this.#core.parts
    if (value === undefined) throw new ValueError(address.key, 'undefined means "none"; use delete')
    checkNames('set', options, SET_NAMES)
    const policy = entryPolicy(this.#policy, options)
    const tags = checkTags(given)
    const life = lifetime(policy, value, { ttlMs: undefined }, 0, settings.maxTtl)
    if (!life) {
      await this.#core.delete([address])
      return 'deleted'
    }
    const coded = reader.code(this.#space, address.key, value)
    tickets.spoil(address.id)
    const ticket = tickets.begin(address.id, true)
    const depends = [
      ...this.#space.generations.map(({ name }) => name),
      ...tags.map((tag) => names.tag(tag))
    ].map((name) => marks.hold(name))
    const stamps = depends.map((mark) => mark.value)
    const write = { address, coded, life, tags, ticket, depends, stamps, heard: marks.heard }
    return await this.#core.inTurn(address, () => this.#run(write))
  }

  async #run(write: Write): Promise<WriteEnd> {
    const { marks, memory, tickets } = this.#core.parts
    const { address, life, tags, ticket, depends } = write
    try {
      const { end, version, stamps } = await this.#store(write)
      tickets.spoilReads(address.id)
      if (end === 'invalidated') ticket.spoilt = true
      const entry = newEntry(this.#space, address, write.coded.value, version, life, depends, stamps, tags)
      this.#core.admit(address, entry, ticket)
      return end === 'kept' ? 'kept' : 'taken'
    } catch (error) {
      for (const mark of depends) marks.release(mark)
      throw error
    } finally {
      tickets.end(ticket)
      if (ticket.spoilt) memory?.delete(address)
    }
  }

  /** Writes to Redis, if there is one. */
  async #store(write: Write): Promise<Stored> {
    const { outbox, reader, remote } = this.#core.parts
    const { address, coded, life, tags, depends } = write
    if (!remote) return { end: 'kept', version: newVersion(), stamps: write.stamps }
    await this.#core.raised(depends)
    const unknown = depends.filter((mark) => !mark.known)
    if (unknown.length > 0) await remote.learn(unknown).catch(() => undefined)
    for (let attempt = 1; ; attempt++) {
      const stamps = depends.map((mark) => mark.value)
      const { bytes, version } = await reader.pack(this.#space, coded, { life, tags, stamps })
      const ms = Math.max(life.freshUntil, life.staleUntil, life.graceUntil) - localNow()
      const stored = { version, stamps }
      try {
        // Redis refuses a mark above its stamp: the tag was invalidated, or the mark was lost and there is a new one.
        const taken =
          !isInvalidated(write) &&
          (await remote.set(address, bytes, Math.max(1, ms), { marks: depends, stamps }))
        if (taken) return { ...stored, end: 'taken' }
        if (isInvalidated(write) || attempt === MAX_SETS) {
          // The value that it was to replace is old as well.
          await remote.delete(address)
          return { ...stored, end: 'invalidated' }
        }
        await remote.learn(depends)
      } catch {
        outbox?.addKeys([address])
        return { ...stored, end: 'kept' }
      }
    }
  }
}

/** Whether one of its marks was invalidated after the call. */
function isInvalidated({ depends, heard }: Write): boolean {
  return depends.some((mark) => mark.heard > heard)
}
