import type { Marks } from './marks.js'

/** One operation under way that means to put a value into memory when it ends. */
export interface Ticket {
  readonly id: string
  /** True once the key was written or deleted meanwhile: what the operation brings may be older. */
  spoilt: boolean
  /** The {@link Marks.epoch} in which it began. */
  readonly epoch: number
}

/**
 * The fence of this process's own memory. A reply of Redis and a message of the bus arrive on different
 * connections, so an old value may come in after the news that it is no longer true; it must not be kept.
 */
export class Tickets {
  readonly #underWay = new Map<string, Set<Ticket>>()
  readonly #marks: Marks

  constructor(marks: Marks) {
    this.#marks = marks
  }

  begin(id: string): Ticket {
    const ticket = { id, spoilt: false, epoch: this.#marks.epoch }
    const others = this.#underWay.get(id)
    if (others) others.add(ticket)
    else this.#underWay.set(id, new Set([ticket]))
    return ticket
  }

  end(ticket: Ticket): void {
    const all = this.#underWay.get(ticket.id)
    all?.delete(ticket)
    if (all?.size === 0) this.#underWay.delete(ticket.id)
  }

  /** @param except the operation that makes the others old */
  spoil(id: string, except?: Ticket): void {
    for (const ticket of this.#underWay.get(id) ?? []) if (ticket !== except) ticket.spoilt = true
  }
}
