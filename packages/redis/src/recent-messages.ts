import { randomBytes } from 'node:crypto'

/** More than a fleet sends in the time that a node of a Cluster may be late. */
const REMEMBERED = 4_096

/**
 * Makes "at most once" true. Two things bring a message again: ioredis repeats a PUBLISH whose connection was lost before its
 * reply, and a late node of a Cluster delivers what a subscriber that moves to it has had from another.
 */
export class RecentMessages {
  readonly #ids = new Set<string>()
  readonly #start = randomBytes(6).toString('base64url')
  #count = 0

  /** An id for a message of this process, which no other process gives. */
  nextId(): string {
    return `${this.#start}${(this.#count++).toString(36)}`
  }

  /** Whether this is the first message with the id, among the last few thousand. */
  isNew(id: string): boolean {
    if (this.#ids.has(id)) return false
    this.#ids.add(id)
    if (this.#ids.size > REMEMBERED) this.#ids.delete(this.#ids.values().next().value!)
    return true
  }
}
