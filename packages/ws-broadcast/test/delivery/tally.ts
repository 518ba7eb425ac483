import { compareOffsets } from '../../src/position.js'
import type { Position } from '../../src/protocol.js'

/** The positions under which messages were acknowledged, and a number for each position there is. */
export class Log {
  readonly #numbers = new Map<string, number>()
  readonly #positions: Position[] = []
  readonly #acknowledged = new Map<number, number>()

  numberOf({ epoch, offset }: Position): number {
    const name = `${epoch} ${offset}`
    let number = this.#numbers.get(name)
    if (number === undefined) {
      number = this.#positions.push({ epoch, offset }) - 1
      this.#numbers.set(name, number)
    }
    return number
  }

  acknowledge(message: number, position: Position): void {
    this.#acknowledged.set(message, this.numberOf(position))
  }

  /**
   * Whether a message that was delivered at one position belongs there: it is the acknowledged one; or the
   * failover that began another epoch lost the message after it was delivered, and it was stored once more,
   * later, when its publish was repeated.
   */
  judge(message: number, at: number): 'acknowledged' | 'restored' | 'wrong' {
    const acknowledged = this.#acknowledged.get(message)
    if (acknowledged === at) return 'acknowledged'
    const [seen, kept] = [
      this.#positions[at],
      acknowledged === undefined ? undefined : this.#positions[acknowledged]
    ]
    if (!seen || !kept || seen.epoch === kept.epoch) return 'wrong'
    return compareOffsets(seen.offset, kept.offset) < 0 ? 'restored' : 'wrong'
  }
}

/** Counts what one client gets. Each message that is where it belongs, in growing order, is the log's own order. */
export class Tally {
  readonly counts: Uint8Array
  received = 0
  /** Deliveries that were not after the one before, by the offset. */
  backwards = 0
  readonly #at: Uint32Array
  #last: string | undefined

  constructor(
    messages: number,
    private readonly log: Log
  ) {
    this.counts = new Uint8Array(messages)
    this.#at = new Uint32Array(messages)
  }

  add(message: number, position: Position): void {
    this.received += 1
    this.counts[message] = (this.counts[message] ?? 0) + 1
    this.#at[message] = this.log.numberOf(position)
    if (this.#last !== undefined && compareOffsets(position.offset, this.#last) <= 0) this.backwards += 1
    this.#last = position.offset
  }

  get complete(): boolean {
    return this.counts.every((count) => count > 0)
  }

  /** Once everything is acknowledged: what was delivered out of order, and what was stored again afterwards. */
  verdict(): { outOfOrder: number; restored: number } {
    const found = { outOfOrder: this.backwards, restored: 0 }
    for (const [message, count] of this.counts.entries()) {
      if (count === 0) continue
      const judgement = this.log.judge(message, this.#at[message]!)
      if (judgement === 'restored') found.restored += 1
      else if (judgement === 'wrong') found.outOfOrder += 1
    }
    return found
  }
}
