import type { ConsistencyToken } from '@flotilla/core'

/** What this process knows of one tag or generation. Identity is kept while anything refers to it. */
export interface Mark {
  /** Its key in Redis. */
  readonly name: string
  /** When it was last invalidated or created, in microseconds of Redis TIME; 0 before it was asked for. */
  value: number
  /** The value at which this process created it, as Redis did not have it; 0 if it did not. */
  created: number
  /** The {@link Marks.heard} of the last invalidation that this process heard of or made; 0 never. */
  heard: number
  /** False until asked of Redis, and again after a gap in the bus. */
  known: boolean
  /** Entries and fills that refer to it. */
  refs: number
  /** What a fill must be able to read, from the invalidation that set `value`. */
  after: ConsistencyToken | undefined
}

const MAX_IDLE_MARKS = 10_000
/** Invalidations of tags that nothing refers to are remembered for fills that name them later. */
const MAX_RECENT = 10_000

/**
 * The marks of tags and generations that entries in memory depend on, kept true by the fleet bus so that
 * a hit in memory asks nobody. A mark only rises. An entry remembers up to which mark its value contains the
 * changes (its stamps) and is dead once a mark stands above its stamp.
 */
export class Marks {
  /** Rises with every change: an entry checked at this version need not be checked again. */
  version = 1
  /** Rises when messages may have been missed: what was read from Redis before is to be read again. */
  epoch = 0
  /** Counts the invalidations that this process has heard of or made: a fill compares it with when it began. */
  heard = 0
  /** Without Redis: marks are counted here. */
  #sequence = 0
  /** Without Redis: the highest mark that was forgotten, which a new one must be assumed to stand at. */
  #floor = 0
  /** Without Redis: marks that nothing refers to, oldest first. */
  readonly #idle = new Set<Mark>()
  readonly #marks = new Map<string, Mark>()
  /** The last invalidations of tags that nothing refers to, oldest first. */
  readonly #recent = new Map<string, Pick<Mark, 'value' | 'heard' | 'after'>>()
  readonly #alone: boolean
  #trusted = true

  /** @param alone true without Redis: every mark is known, and counted here */
  constructor(alone: boolean) {
    this.#alone = alone
  }

  /** How many are held. */
  get size(): number {
    return this.#marks.size
  }

  /** The mark of this name, counted as in use until {@link release}. */
  hold(name: string): Mark {
    let mark = this.#marks.get(name)
    if (!mark) {
      const recent = this.#recent.get(name)
      mark = {
        name,
        value: recent?.value ?? this.#floor,
        created: 0,
        heard: recent?.heard ?? 0,
        known: this.#alone,
        refs: 0,
        after: recent?.after
      }
      this.#marks.set(name, mark)
    } else if (mark.refs === 0) this.#idle.delete(mark)
    mark.refs++
    return mark
  }

  release(mark: Mark): void {
    if (--mark.refs > 0) return
    if (!this.#alone) {
      this.#marks.delete(mark.name)
      return
    }
    // A fill under way may name this tag yet: remember its mark for a while, then only the highest.
    this.#idle.add(mark)
    if (this.#idle.size <= MAX_IDLE_MARKS) return
    const [oldest] = this.#idle
    this.#idle.delete(oldest!)
    this.#marks.delete(oldest!.name)
    this.#floor = Math.max(this.#floor, oldest!.value)
  }

  find(name: string): Mark | undefined {
    return this.#marks.get(name)
  }

  /** Notes an invalidation that Redis or the bus reports; older news is ignored. */
  raise(name: string, value: number, after?: ConsistencyToken): void {
    const mark = this.#marks.get(name)
    if (!mark) {
      this.#remember(name, value, after)
      return
    }
    mark.heard = ++this.heard
    this.note(mark, value, after)
  }

  /**
   * Redis has taken what {@link raiseLocally} did here. It took effect when that was called: what began since then is
   * younger.
   */
  confirm(name: string, value: number, after?: ConsistencyToken): void {
    const mark = this.#marks.get(name)
    const recent = this.#recent.get(name)
    if (mark) this.note(mark, value, after)
    else if (!recent) this.#remember(name, value, after)
    else if (value > recent.value) this.#recent.set(name, { ...recent, value, after })
  }

  note(mark: Mark, value: number, after?: ConsistencyToken): void {
    if (value <= mark.value) return
    mark.value = value
    mark.after = after
    this.version++
  }

  /**
   * What Redis answered for marks that were asked of it: from now on they are known.
   * @param created whether Redis did not have the mark and has created it at this value
   */
  learn(mark: Mark, reply: string, created = false): void {
    const { value, after } = parseMark(reply)
    this.note(mark, value, after)
    if (created) mark.created = value
    if (!mark.known && this.#trusted) {
      mark.known = true
      this.version++
    }
  }

  /** Invalidation before Redis has taken it, or without Redis: above everything this process has stored so far. */
  raiseLocally(name: string, after?: ConsistencyToken): void {
    if (this.#alone) {
      const mark = this.hold(name)
      this.note(mark, ++this.#sequence, after)
      this.release(mark)
      return
    }
    // One step is enough: a mark stands at least as high as the stamps of all entries here. Redis gives it its time later,
    // which must not be lower than what a stamp here says.
    const mark = this.#marks.get(name)
    if (!mark) {
      this.#remember(name, 0, after)
      return
    }
    mark.heard = ++this.heard
    this.note(mark, mark.value + 1, after)
  }

  #remember(name: string, value: number, after: ConsistencyToken | undefined): void {
    const known = this.#recent.get(name)
    const latest = known !== undefined && known.value > value ? known : { value, after }
    this.#recent.delete(name)
    this.#recent.set(name, { ...latest, heard: ++this.heard })
    if (this.#recent.size > MAX_RECENT) this.#recent.delete(this.#recent.keys().next().value!)
  }

  /** Where this process stands: the stamp of a value whose computation begins now, without Redis. */
  get now(): number {
    return this.#alone ? this.#sequence : 0
  }

  /**
   * Messages may have been missed: every mark must be asked again before it is believed.
   * @param trusted false while more may be missed: until then no answer is believed for longer than its own read.
   *   Default: as before
   */
  distrust(trusted = this.#trusted): void {
    if (this.#alone) return
    this.#trusted = trusted
    this.epoch++
    for (const mark of this.#marks.values()) mark.known = false
    this.version++
  }
}

/** Reads `'<microseconds>[ <token>]'` as scripts write it; anything else is 0. */
function parseMark(text: string): { value: number; after: ConsistencyToken | undefined } {
  const space = text.indexOf(' ')
  const value = Number(space < 0 ? text : text.slice(0, space))
  return {
    value: Number.isSafeInteger(value) ? value : 0,
    after: space < 0 ? undefined : text.slice(space + 1)
  }
}
