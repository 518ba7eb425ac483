import type { FastifyBaseLogger } from 'fastify'
import type { Address, Remote } from './remote.js'
import { localNow, type RedisTime } from './clock.js'
import { compress, decompress, type Codec } from './codec.js'
import { Entry, type Lifetime } from './entry.js'
import { CorruptEntryError, ValueError } from './errors.js'
import type { KeyNames } from './keys.js'
import type { Mark, Marks } from './marks.js'
import { entrySize } from './size.js'
import { channels } from './telemetry.js'
import { decodeEntry, encodeEntry, newVersion, type WireEntry } from './wire.js'

/** The part of the cache that one namespace is. */
export interface Space {
  readonly name: string
  /** Before each key in the ids of this process. */
  readonly idPrefix: string
  readonly codec: Codec
  readonly early: number
  /** The generations it depends on: the root's, and its own. Held for as long as the cache lives. */
  readonly generations: readonly Mark[]
  /** The stamps that its last entry without tags had. */
  stamps: readonly number[]
}

/** A value as its codec writes it, and as all processes read it. */
export interface Coded {
  readonly plain: Buffer
  readonly value: unknown
}

export interface ReaderParts {
  marks: Marks
  names: KeyNames
  time: RedisTime
  log: FastifyBaseLogger
  compressAbove: number
  remote: Remote | undefined
}

/** Turns stored bytes into entries of memory and values into stored bytes. */
export class EntryReader {
  readonly #parts: ReaderParts

  constructor(parts: ReaderParts) {
    this.#parts = parts
  }

  /**
   * The entry in these bytes, with its marks asked of Redis where they are unknown; `undefined` where it is dead, too
   * old, of another codec or corrupt (which is logged, and the caller replaces it).
   *
   * @param have an entry of memory that is handed back where the bytes are the same version
   */
  async open(space: Space, address: Address, bytes: Buffer, have?: Entry): Promise<Entry | undefined> {
    try {
      const wire = decodeEntry(bytes)
      if (wire.header.codec !== space.codec.name) return undefined
      if (have?.version === wire.version) {
        // After a gap its marks are as unheard of as those of an entry never seen.
        await this.#parts.remote?.learn(have.marks.filter((mark) => !mark.known))
        return isDead(have) ? undefined : have
      }
      if (this.#parts.time.toLocal(wire.header.keptUntil) <= localNow()) return undefined
      return await this.#open(space, address, wire)
    } catch (error) {
      if (!(error instanceof CorruptEntryError)) throw error
      this.#parts.log.warn(
        { err: error, key: address.entryKey },
        'a stored entry cannot be read and is replaced'
      )
      channels.error.publish({ operation: 'decode', error })
      return undefined
    }
  }

  async #open(
    space: Space,
    address: Address,
    { version, header, payload }: WireEntry
  ): Promise<Entry | undefined> {
    const { marks, names, time, remote } = this.#parts
    const held = [...space.generations, ...header.tags.map((tag) => marks.hold(names.tag(tag)))]
    const own = held.slice(space.generations.length)
    try {
      if (header.stamps.length !== held.length) throw new CorruptEntryError('its marks do not match its tags')
      const unknown = own.filter((mark) => !mark.known)
      if (unknown.length > 0) await remote?.learn(unknown)
      if (held.some((mark, i) => mark.value > header.stamps[i]!)) {
        for (const mark of own) marks.release(mark)
        return undefined
      }
      // A stamp proves that the mark has been as high, also if a failover has lost that.
      held.forEach((mark, i) => marks.note(mark, header.stamps[i]!))
      const plain = header.compressed ? await decompress(payload) : payload
      const life: Lifetime = {
        createdAt: time.toLocal(header.created),
        freshUntil: time.toLocal(header.freshUntil),
        staleUntil: time.toLocal(header.staleUntil),
        graceUntil: time.toLocal(header.graceUntil),
        computeMs: header.computeMs
      }
      const value = decodeWith(space.codec, plain)
      for (const mark of space.generations) marks.hold(mark.name)
      return newEntry(space, address, value, version, life, held, header.stamps, header.tags)
    } catch (error) {
      for (const mark of own) marks.release(mark)
      throw error
    }
  }

  /**
   * What callers are given, whether or not there is Redis: a value is never of one type here and of another there.
   * @throws FLOTILLA_CACHE_ERR_VALUE
   */
  code(space: Space, key: string, value: unknown): Coded {
    try {
      const encoded = space.codec.encode(value)
      const plain = typeof encoded === 'string' ? Buffer.from(encoded) : encoded
      return { plain, value: space.codec.decode(plain) }
    } catch (error) {
      throw Object.assign(new ValueError(key, error instanceof Error ? error.message : String(error)), {
        cause: error
      })
    }
  }

  /** The bytes to store. */
  async pack(
    space: Space,
    { plain }: Coded,
    { life, tags, stamps }: { life: Lifetime; tags: readonly string[]; stamps: readonly number[] }
  ): Promise<{ bytes: Buffer; version: string }> {
    const { time, compressAbove } = this.#parts
    const packed = plain.length > compressAbove ? await compress(plain) : undefined
    const version = newVersion()
    const kept = Math.max(life.freshUntil, life.staleUntil, life.graceUntil)
    const bytes = encodeEntry(
      version,
      {
        created: time.toRedis(life.createdAt),
        freshUntil: time.toRedis(life.freshUntil),
        staleUntil: time.toRedis(life.staleUntil),
        graceUntil: time.toRedis(life.graceUntil),
        keptUntil: time.toRedis(kept),
        computeMs: life.computeMs,
        tags,
        stamps,
        codec: space.codec.name,
        compressed: packed !== undefined
      },
      packed ?? plain
    )
    return { bytes, version }
  }
}

/** Whether a mark is known to have moved past the entry. */
export function isDead(entry: Entry): boolean {
  return entry.marks.some((mark, i) => mark.value > entry.stamps[i]!)
}

/** Gives up the hold on its marks of an entry that memory does not keep. */
export function discard(entry: Entry, marks: Marks): void {
  for (const mark of entry.marks) marks.release(mark)
}

function decodeWith(codec: Codec, plain: Buffer): unknown {
  try {
    return codec.decode(plain)
  } catch (error) {
    throw Object.assign(new CorruptEntryError(`codec '${codec.name}' cannot read its payload`), {
      cause: error
    })
  }
}

const NO_TAGS: readonly string[] = []

/** @param marks held by the caller for the entry: generations first, then one a tag */
export function newEntry(
  space: Space,
  address: Address,
  value: unknown,
  version: string,
  life: Lifetime,
  marks: readonly Mark[],
  stamps: readonly number[],
  tags: readonly string[]
): Entry {
  const untagged = tags.length === 0
  return new Entry({
    value,
    version,
    life,
    early: space.early,
    // Most entries of a namespace depend on the same and can share the lists.
    marks: untagged ? space.generations : marks,
    stamps: untagged ? sharedStamps(space, stamps) : stamps,
    tags: untagged ? NO_TAGS : tags,
    size: entrySize(address.key, value, marks)
  })
}

function sharedStamps(space: Space, stamps: readonly number[]): readonly number[] {
  if (space.stamps.every((stamp, i) => stamp === stamps[i])) return space.stamps
  return (space.stamps = [...stamps])
}
