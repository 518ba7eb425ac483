import type { Marks } from './marks.js'

/** One operation under way that means to put a value into memory when it ends. */
export interface Ticket {
  readonly id: string
  /** True once the key was written or deleted meanwhile: what the operation brings may be older. */
  spoilt: boolean
  /** The {@link Marks.epoch} in which it began. */
  readonly epoch: number
  /** A write: it takes its turn after the earlier ones, so that no earlier one makes it old. */
  readonly writes: boolean
  /** Another one of this id. */
  next: Ticket | undefined
}

/**
 * The fence of this process's own memory. A reply of Redis and a message of the bus arrive on different
 * connections, so an old value may come in after the news that it is no longer true; it must not be kept.
 */
export class Tickets {
  /** The latest of each id; there is hardly ever a second. */
  readonly #underWay = new Map<string, Ticket>()
  readonly #marks: Marks

  constructor(marks: Marks) {
    this.#marks = marks
  }

  begin(id: string, writes = false): Ticket {
    const next = this.#underWay.get(id)
    const ticket: Ticket = { id, spoilt: false, epoch: this.#marks.epoch, writes, next }
    this.#underWay.set(id, ticket)
    return ticket
  }

  end(ticket: Ticket): void {
    const latest = this.#underWay.get(ticket.id)
    if (latest === ticket) {
      if (ticket.next) this.#underWay.set(ticket.id, ticket.next)
      else this.#underWay.delete(ticket.id)
      return
    }
    for (let one = latest; one; one = one.next) if (one.next === ticket) one.next = ticket.next
  }

  /** The key has another value from now on: what began before is old. */
  spoil(id: string): void {
    for (let one = this.#underWay.get(id); one; one = one.next) one.spoilt = true
  }

  /** A write has ended: what was read meanwhile is old, later writes are not. */
  spoilReads(id: string): void {
    for (let one = this.#underWay.get(id); one; one = one.next) if (!one.writes) one.spoilt = true
  }
}
