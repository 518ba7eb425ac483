import type { Lsn } from './lsn.js'

interface Sample {
  readonly at: number
  readonly timeline: number
  readonly lsn: Lsn
}

const CAPACITY = 512
/** Samples nearer together than this tell nothing more, in milliseconds. */
const SPACING = 5

const reaches = (timeline: number, lsn: Lsn, sample: Sample): boolean =>
  timeline > sample.timeline || (timeline === sample.timeline && lsn >= sample.lsn)

/**
 * Where the primary's log stood when. It turns bytes into time: a replica's lag is how long ago the primary
 * stood where the replica stands now, so that an idle primary never looks like lag.
 */
export class WalHistory {
  #samples: Sample[] = []
  /** The first position seen on each timeline: at or past the point where it forked off. */
  readonly #firsts = new Map<number, Lsn>()

  add(at: number, timeline: number, lsn: Lsn): void {
    if (!this.#firsts.has(timeline)) this.#firsts.set(timeline, lsn)
    const last = this.#samples.at(-1)
    // Too soon after the last one, or no news.
    if (last?.timeline === timeline && (at - last.at < SPACING || last.lsn >= lsn)) return
    if (last && last.timeline > timeline) return
    this.#samples.push({ at, timeline, lsn })
    if (this.#samples.length > CAPACITY) this.#thin()
  }

  clear(): void {
    this.#samples = []
    this.#firsts.clear()
  }

  get timeline(): number {
    return this.#samples.at(-1)?.timeline ?? 0
  }

  get lsn(): Lsn | undefined {
    return this.#samples.at(-1)?.lsn
  }

  /** A position that covers whatever of earlier timelines survived the promotion to this one. */
  firstOf(timeline: number): Lsn | undefined {
    return this.#firsts.get(timeline)
  }

  /** How long ago the primary passed what a replica at this position has yet to replay; 0 when it has it all. */
  lag(now: number, timeline: number, lsn: Lsn): number {
    const missing = this.#firstNotReached(timeline, lsn)
    return missing ? now - missing.at : 0
  }

  /** Whether the history reaches back to before this position. */
  knows(timeline: number, lsn: Lsn): boolean {
    const first = this.#samples[0]
    return first !== undefined && reaches(timeline, lsn, first)
  }

  /** How long ago the primary came to this position; 0 for one newer than the last sample. */
  age(now: number, timeline: number, lsn: Lsn): number {
    // The first sample at or past it: its write was no later than that.
    let low = 0
    let high = this.#samples.length
    while (low < high) {
      const middle = (low + high) >> 1
      const sample = this.#samples[middle]!
      if (sample.timeline > timeline || (sample.timeline === timeline && sample.lsn >= lsn)) high = middle
      else low = middle + 1
    }
    const sample = this.#samples[low]
    return sample ? now - sample.at : 0
  }

  /** The time since the newest sample, which a replica that has reached it can not lag by more than. */
  sinceLast(now: number): number {
    const last = this.#samples.at(-1)
    return last ? now - last.at : 0
  }

  #firstNotReached(timeline: number, lsn: Lsn): Sample | undefined {
    let low = 0
    let high = this.#samples.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (reaches(timeline, lsn, this.#samples[middle]!)) low = middle + 1
      else high = middle
    }
    return this.#samples[low]
  }

  /** Keeps every second of the older samples: far back, coarse is enough. */
  #thin(): void {
    const recent = this.#samples.length >> 1
    this.#samples = this.#samples.filter((_, index) => index >= recent || index % 2 === 0)
  }
}
