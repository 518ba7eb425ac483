/** How long after a response that cannot be shared requests for its URL run side by side. */
const UNSHAREABLE_MS = 5000
const MAX_URLS = 1000
/** Answers to conditions and ranges: they say nothing of what the next request gets. */
const CONDITIONAL: ReadonlySet<number> = new Set([412, 416])

/**
 * The URLs whose last response could not be shared: an error, personal, too long. Their requests do not wait for each other,
 * and what they bring is stored as soon as it can be.
 */
export class HitForMiss {
  readonly #urls = new Map<string, { until: number; untouched: boolean }>()

  isUnshareable(key: string): boolean {
    return (this.#urls.get(key)?.until ?? 0) > Date.now()
  }

  /**
   * Whether the handler gets its requests with their conditions and ranges: what it answers is most likely not stored. This
   * holds until a response can be stored, so that a client that asks for the parts of a film gets parts each time.
   */
  isUntouched(key: string): boolean {
    return this.#urls.get(key)?.untouched === true
  }

  /** @param status of a response that cannot be shared; `undefined` of one that can */
  note(key: string, status: number | undefined): void {
    this.#urls.delete(key)
    if (status === undefined) return
    this.#urls.set(key, {
      until: Date.now() + UNSHAREABLE_MS,
      untouched: status < 400 || CONDITIONAL.has(status)
    })
    if (this.#urls.size > MAX_URLS) this.#urls.delete(this.#urls.keys().next().value!)
  }
}
