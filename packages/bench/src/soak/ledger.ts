export const invariants = {
  stale: 'a visitor reads what it wrote',
  lost: 'every acknowledged message reaches every socket',
  doubled: 'no message comes twice or out of order',
  resurrected: 'a revoked session stays revoked',
  stampede: 'a cold key is computed once in the fleet',
  leak: 'handles and memory come back to their level',
  failed: 'no request fails while nothing is broken'
} as const

export type Invariant = keyof typeof invariants

export interface Violation {
  /** Milliseconds after the load began. */
  readonly at: number
  readonly invariant: Invariant
  readonly what: string
}

export interface Second {
  answered: number
  failed: number
  messages: number
}

export interface Event {
  readonly at: number
  readonly until: number
  readonly what: string
}

/** What was seen during a run: the account that the report is made from. */
export class Ledger {
  readonly #begin = performance.now()
  readonly violations: Violation[] = []
  readonly checked = Object.fromEntries(Object.keys(invariants).map((name) => [name, 0])) as Record<
    Invariant,
    number
  >
  readonly seconds: Second[] = []
  readonly events: Event[] = []

  now(): number {
    return performance.now() - this.#begin
  }

  /** Counts one check, and keeps its violation where it did not hold. */
  check(invariant: Invariant, held: boolean, what: string): void {
    this.checked[invariant]++
    if (!held && this.violations.length < 1_000) this.violations.push({ at: this.now(), invariant, what })
  }

  count(what: keyof Second): void {
    this.#second()[what]++
  }

  event(at: number, what: string): void {
    this.events.push({ at, until: this.now(), what })
  }

  /** Whether something was broken between two times, or mended and the fleet not yet whole. */
  disturbed(from: number, to: number): boolean {
    return this.#open > 0 || this.events.some((event) => event.at <= to && event.until >= from)
  }

  #open = 0
  /** Runs a fault, to the end of its recovery; until then the fleet counts as disturbed. */
  async during(what: string, work: () => Promise<void>): Promise<void> {
    const at = this.now()
    this.#open++
    try {
      await work()
    } finally {
      this.#open--
      this.event(at, what)
    }
  }

  /** All of it, to be written down. */
  account() {
    const { violations, checked, seconds, events } = this
    return { violations, checked, seconds, events }
  }

  #second(): Second {
    const index = Math.floor(this.now() / 1_000)
    while (this.seconds.length <= index) this.seconds.push({ answered: 0, failed: 0, messages: 0 })
    return this.seconds[index]!
  }
}
