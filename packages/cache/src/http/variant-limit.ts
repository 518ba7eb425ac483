/** How many variants of one URL an instance stores. */
const MAX_VARIANTS = 100
const MAX_URLS = 1000

/**
 * Bounds the variants of a URL, in Redis as well: a client makes a new one with each value of a header that is in `Vary`.
 * What another instance has stored is still served.
 */
export class VariantLimit {
  /** By URL and key: when what is stored there has expired. Oldest URL first. */
  readonly #urls = new Map<string, Map<string, number>>()

  /** Whether a response may be stored under this key. */
  admits(url: string, key: string): boolean {
    const variants = this.#urls.get(url)
    if (!variants || variants.has(key) || variants.size < MAX_VARIANTS) return true
    const now = Date.now()
    for (const [one, until] of variants) if (until <= now) variants.delete(one)
    return variants.size < MAX_VARIANTS
  }

  stored(url: string, key: string, until: number): void {
    const variants = this.#urls.get(url) ?? new Map<string, number>()
    this.#urls.delete(url)
    this.#urls.set(url, variants.set(key, until))
    if (this.#urls.size > MAX_URLS) this.#urls.delete(this.#urls.keys().next().value!)
  }
}
