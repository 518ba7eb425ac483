import type { Mark, Marks } from './marks.js'

/** Times of an entry, in milliseconds of our own clock. */
export interface Lifetime {
  createdAt: number
  /** Fresh until here. */
  freshUntil: number
  /** Served stale while a refresh runs until here (stale-while-revalidate). */
  staleUntil: number
  /** Served stale when the factory fails or is late until here (grace). */
  graceUntil: number
  /** How long the factory took: what early refresh is reckoned from. */
  computeMs: number
}

/** The entries of one namespace by key. */
export type Index = Map<string, Entry>

/** What a new entry is made of. */
export interface EntryParts {
  value: unknown
  version: string
  life: Lifetime
  early: number
  marks: readonly Mark[]
  stamps: readonly number[]
  tags: readonly string[]
  size: number
}

/**
 * A value held in memory. Times are kept as whole milliseconds from `createdAt`, which V8 keeps in the object
 * itself; there may be millions of these.
 */
export class Entry {
  readonly value: unknown
  readonly version: string
  readonly createdAt: number
  readonly #freshFor: number
  readonly #staleFor: number
  readonly #graceFor: number
  readonly computeMs: number
  /** Until here a hit needs no further thought: fresh, and too young for an early refresh. */
  readonly calmUntil: number
  /** The {@link Marks.version} at which its marks were last compared. */
  checked = 0
  /** The {@link Marks.epoch} in which Redis was last asked for it: its key may have been deleted unheard since. */
  epoch = 0
  /** Generations and tags it depends on, and up to which mark of each its value contains the changes. */
  readonly marks: readonly Mark[]
  readonly stamps: readonly number[]
  readonly tags: readonly string[]
  /** A resolved promise of the value, made at the first asynchronous hit and handed to all. */
  resolved: Promise<unknown> | undefined = undefined
  /** Bytes, by estimate. */
  readonly size: number
  /** Until here a refresh that failed is not tried again. */
  backoffUntil = 0
  /** Its place in memory: see memory.ts. */
  key = ''
  index: Index | undefined = undefined
  newer: Entry | undefined = undefined
  older: Entry | undefined = undefined
  visited = false

  constructor({ value, version, life, early, marks, stamps, tags, size }: EntryParts) {
    this.value = value
    this.version = version
    this.createdAt = life.createdAt
    this.#freshFor = Math.round(life.freshUntil - life.createdAt)
    this.#staleFor = Math.round(life.staleUntil - life.createdAt)
    this.#graceFor = Math.round(life.graceUntil - life.createdAt)
    this.computeMs = Math.round(life.computeMs)
    this.calmUntil = Math.floor(calmUntil(life, early))
    this.marks = marks
    this.stamps = stamps
    this.tags = tags
    this.size = size
  }

  get freshUntil(): number {
    return this.createdAt + this.#freshFor
  }

  get staleUntil(): number {
    return this.createdAt + this.#staleFor
  }

  get graceUntil(): number {
    return this.createdAt + this.#graceFor
  }
}

/** `dead`: a mark moved past it. `suspect`: it or one of its marks must be asked of Redis first. */
export type Standing = 'alive' | 'suspect' | 'dead'

/** Compares an entry's stamps with what is known of its marks, and remembers that it did. */
export function standing(entry: Entry, marks: Marks): Standing {
  if (entry.checked === marks.version) return 'alive'
  let result: Standing = entry.epoch === marks.epoch ? 'alive' : 'suspect'
  for (let i = 0; i < entry.marks.length; i++) {
    const mark = entry.marks[i]!
    if (mark.value > entry.stamps[i]!) return 'dead'
    if (!mark.known) result = 'suspect'
  }
  if (result === 'alive') entry.checked = marks.version
  return result
}

/** Beyond this many times the factory's own duration before expiry, an early refresh has odds below e^-12. */
const EARLY_HORIZON = 12

/** @param beta the eagerness of early refresh; 0 never */
function calmUntil(life: Lifetime, beta: number): number {
  return beta === 0
    ? life.freshUntil
    : Math.max(life.createdAt, life.freshUntil - EARLY_HORIZON * beta * life.computeMs)
}

/**
 * Whether this read shall refresh a fresh entry ahead of its expiry: XFetch (Vattani, Chierichetti, Lowenstein,
 * "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015).
 */
export function refreshEarly(life: Lifetime, beta: number, now: number): boolean {
  if (beta === 0 || life.computeMs === 0) return false
  return now - life.computeMs * beta * Math.log(Math.random()) >= life.freshUntil
}
