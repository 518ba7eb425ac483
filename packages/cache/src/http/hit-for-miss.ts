/** How long after a response that cannot be shared requests for its URL run side by side. */
const UNSHAREABLE_MS = 5000
const MAX_URLS = 1000

/**
 * The URLs whose last response could not be shared: an error, personal, too long. Their requests do not wait for each other,
 * and what they bring is stored as soon as it can be.
 */
export class HitForMiss {
  readonly #until = new Map<string, number>()

  isUnshareable(key: string): boolean {
    return (this.#until.get(key) ?? 0) > Date.now()
  }

  note(key: string, shareable: boolean): void {
    this.#until.delete(key)
    if (shareable) return
    this.#until.set(key, Date.now() + UNSHAREABLE_MS)
    if (this.#until.size > MAX_URLS) this.#until.delete(this.#until.keys().next().value!)
  }
}
