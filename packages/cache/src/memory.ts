import type { Entry, Index } from './entry.js'
import type { Marks } from './marks.js'

export interface MemoryLimits {
  /** Bytes, by estimate. */
  maxSize: number
  maxEntries: number | undefined
}

interface Place {
  readonly ns: string
  readonly key: string
}

/**
 * The entries of this process. A hit only sets a flag; what goes when memory is full is found by SIEVE (Zhang et al.,
 * NSDI 2024): a hand moves from old to new and takes the first entry that was not hit since it last passed.
 * The order is a list through the entries themselves, so that namespaces share one limit and each has its own index.
 */
export class Memory {
  readonly #limits: MemoryLimits
  readonly #marks: Marks
  readonly #indexes = new Map<string, Index>()
  #newest: Entry | undefined
  #oldest: Entry | undefined
  #hand: Entry | undefined
  #entries = 0
  #bytes = 0

  constructor(limits: MemoryLimits, marks: Marks) {
    this.#limits = limits
    this.#marks = marks
  }

  /** The entries of one namespace: to read from; a hit sets `visited`. */
  index(ns: string): Index {
    let index = this.#indexes.get(ns)
    if (!index) this.#indexes.set(ns, (index = new Map()))
    return index
  }

  get(place: Place): Entry | undefined {
    const entry = this.peek(place)
    if (entry) entry.visited = true
    return entry
  }

  /** Without counting as a hit. */
  peek({ ns, key }: Place): Entry | undefined {
    return this.#indexes.get(ns)?.get(key)
  }

  /** Takes over the entry's hold on its marks. An entry larger than the whole memory is not kept. */
  put(place: Place, entry: Entry): void {
    this.delete(place)
    const { maxSize, maxEntries = Number.POSITIVE_INFINITY } = this.#limits
    if (entry.size > maxSize) {
      this.#release(entry)
      return
    }
    while (this.#entries >= maxEntries || this.#bytes + entry.size > maxSize) this.#evict()
    const index = this.index(place.ns)
    entry.key = place.key
    entry.index = index
    entry.visited = false
    index.set(place.key, entry)
    entry.older = this.#newest
    entry.newer = undefined
    if (this.#newest) this.#newest.newer = entry
    this.#newest = entry
    this.#oldest ??= entry
    this.#entries++
    this.#bytes += entry.size
  }

  delete(place: Place): boolean {
    const entry = this.peek(place)
    if (entry) this.#remove(entry)
    return entry !== undefined
  }

  clear(): void {
    for (let entry = this.#newest; entry; entry = entry.older) this.#release(entry)
    for (const index of this.#indexes.values()) index.clear()
    this.#newest = this.#oldest = this.#hand = undefined
    this.#entries = this.#bytes = 0
  }

  get entries(): number {
    return this.#entries
  }

  get bytes(): number {
    return this.#bytes
  }

  #evict(): void {
    let entry = this.#hand ?? this.#oldest
    while (entry?.visited) {
      entry.visited = false
      entry = entry.newer ?? this.#oldest
    }
    if (!entry) return
    this.#hand = entry
    this.#remove(entry)
  }

  #remove(entry: Entry): void {
    entry.index?.delete(entry.key)
    if (this.#hand === entry) this.#hand = entry.newer
    if (entry.newer) entry.newer.older = entry.older
    else this.#newest = entry.older
    if (entry.older) entry.older.newer = entry.newer
    else this.#oldest = entry.newer
    entry.newer = entry.older = entry.index = undefined
    this.#entries--
    this.#bytes -= entry.size
    this.#release(entry)
  }

  #release(entry: Entry): void {
    for (const mark of entry.marks) this.#marks.release(mark)
  }
}
