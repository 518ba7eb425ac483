import type { Marks } from './marks.js'

/** One operation under way that means to put a value into memory when it ends. */
export interface Ticket {
  readonly id: string
  /** True once the key was written or deleted meanwhile: what the operation brings may be older. */
  spoilt: boolean
  /** The {@link Marks.epoch} in which it began. */
  readonly epoch: number
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

  begin(id: string): Ticket {
    const ticket: Ticket = { id, spoilt: false, epoch: this.#marks.epoch, next: this.#underWay.get(id) }
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

  /** @param except the operation that makes the others old */
  spoil(id: string, except?: Ticket): void {
    for (let one = this.#underWay.get(id); one; one = one.next) if (one !== except) one.spoilt = true
  }
}
