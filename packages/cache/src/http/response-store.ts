import type { FastifyRequest } from 'fastify'
import { RESPONSES, type Cache } from '../cache.js'
import type { GetOrSetOptions } from '../engine.js'
import type { Entry } from '../entry.js'
import type { Factory } from '../factory.js'
import { variantKey } from './request-key.js'
import { isPointer, type StoredResponse, type VaryPointer } from './stored-response.js'
import { VariantLimit } from './variant-limit.js'
import type { Place, Varied } from './visit.js'

export type Stored = StoredResponse | VaryPointer

const POINTER_TTL = 86_400_000

/**
 * Responses in a namespace of the cache: under the key of their URL, or, if they vary by headers that the route does not
 * name, under the key of their variant. The key of the URL then holds by what they vary, and the response that said so.
 */
export class ResponseStore {
  readonly #cache: Cache<Stored>
  readonly #variants = new VariantLimit()

  constructor(cache: Cache) {
    // XFetch would run handlers early for no one; routes have stale-while-revalidate for that.
    this.#cache = cache.part<Stored>(RESPONSES, { codec: 'msgpack', early: 0, swr: 0, grace: 0, jitter: 0 })
  }

  /** What memory holds, fresh or not. */
  held(key: string): Entry | undefined {
    return this.#cache.held(key)
  }

  isUnderWay(key: string): boolean {
    return this.#cache.isUnderWay(key)
  }

  /** Whether there is room for one more variant, if it is one. */
  admits({ uri, key }: Place): boolean {
    return key === uri || this.#variants.admits(uri, key)
  }

  /** Stores what comes of this under the key of the place. */
  note({ uri, key }: Place, outcome: Promise<Stored | undefined>): void {
    if (key === uri) return
    const stored = (one: Stored | undefined): void => {
      if (!one || isPointer(one)) return
      this.#variants.stored(uri, key, one.at + Math.max(one.fresh, 0) + Math.max(one.swr, one.sie))
    }
    outcome.then(stored, () => undefined)
  }

  async read(place: Place): Promise<Stored | undefined> {
    return (await this.#cache.get<Stored>(place.key)) ?? place.first
  }

  fill(
    key: string,
    factory: Factory<Stored | undefined>,
    options: GetOrSetOptions
  ): Promise<Stored | undefined> {
    return this.#cache.getOrSet<Stored>(key, factory as Factory<Stored>, options)
  }

  drop(key: string): void {
    // Where Redis is away the cache itself sends it again.
    this.#cache.delete(key).catch(() => undefined)
  }

  /** Where the response for this request lies, if those of its URL vary by what the pointer names. */
  variant(request: FastifyRequest, place: Place, { vary: names, first }: VaryPointer): Place {
    const vary = names.filter((name) => !place.vary.includes(name))
    const variant = variantKey(request, vary)
    return {
      uri: place.uri,
      base: place.base,
      key: place.base + variant,
      vary: [...place.vary, ...vary],
      first: first?.variant === variant ? first.response : undefined
    }
  }

  /** The response varies by more: at the first look it is stored with that; later that widens what was known. */
  varied(request: FastifyRequest, place: Place, more: readonly string[]): Varied | undefined {
    const vary = [...new Set([...place.vary, ...more])].sort()
    if (place.key !== place.base) {
      this.point(place.base, vary)
      return undefined
    }
    const names = vary.filter((name) => !place.vary.includes(name))
    return { vary, variant: variantKey(request, names) }
  }

  /** Under the key of the URL lies nothing but by what its responses vary. */
  point(base: string, vary: readonly string[]): void {
    this.#cache.set(base, { vary: [...vary].sort() }, { ttl: POINTER_TTL }).catch(() => undefined)
  }
}
