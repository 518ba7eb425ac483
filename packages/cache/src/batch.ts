import { LoadedError } from './errors.js'
import type { Factory, FactoryContext } from './factory.js'
import type { Flight, Flights } from './flight.js'
import type { Address } from './remote.js'

/**
 * Computes the values of these keys, in one call. Answers with a list in the order of `keys`, or with a Map; `undefined` is
 * "none" and is not stored. `contexts` are those of the keys, as a factory is given one.
 */
export type LoadMissing<T, V = T> = (
  keys: readonly string[],
  contexts: readonly FactoryContext<V>[]
) => Loaded<T> | Promise<Loaded<T>>

/** What {@link LoadMissing} answers with. */
export type Loaded<T> = ReadonlyMap<string, T> | readonly (T | undefined)[]

/** A key whose value this process has to compute. */
interface Wanted {
  readonly key: string
  readonly context: FactoryContext
  readonly flight: Flight | undefined
  readonly resolve: (value: unknown) => void
  readonly reject: (error: unknown) => void
}

/**
 * The values of these keys, in their order.
 *
 * @param getOrSet of one key; calls `onWait` if another caller or process computes it
 */
export async function computeMany<T>(
  addresses: readonly Address[],
  load: LoadMissing<unknown, unknown>,
  flights: Flights,
  getOrSet: (key: string, factory: Factory<unknown>, onWait: () => void) => Promise<T>
): Promise<T[]> {
  const byKey = new Map(addresses.map((address) => [address.key, address]))
  const batch = new Batch([...byKey.keys()], load, flights)
  const found = new Map<string, Promise<T>>()
  for (const [key, { id }] of byKey) {
    const decide = (): void => batch.decide(key)
    const value = getOrSet(key, (context) => batch.want(key, context, flights.get(id)), decide)
    value.then(decide, decide)
    found.set(key, value)
  }
  // All of them, also if one fails: a caller that tries again must not join what is still failing.
  await Promise.allSettled(found.values())
  return Promise.all(addresses.map(({ key }) => found.get(key)!))
}

/**
 * One call of getOrSetMany. Each key is `undecided` until it is found, another caller or process computes it, or its factory
 * begins here. When none is undecided, what began is computed in one call. A key whose other computer gives up comes later
 * and by itself. A key that is computed elsewhere is not waited for, so that two batches never wait for each other.
 */
class Batch {
  readonly #load: LoadMissing<unknown, unknown>
  readonly #flights: Flights
  readonly #undecided: Set<string>
  #wanted: Wanted[] = []

  constructor(keys: readonly string[], load: LoadMissing<unknown, unknown>, flights: Flights) {
    this.#undecided = new Set(keys)
    this.#load = load
    this.#flights = flights
  }

  /** The value of this key, once the batch has computed it. */
  want(key: string, context: FactoryContext, flight: Flight | undefined): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#wanted.push({ key, context, flight, resolve, reject })
      this.decide(key)
    })
  }

  decide(key: string): void {
    this.#undecided.delete(key)
    if (this.#undecided.size === 0 && this.#wanted.length > 0) void this.#run(this.#wanted.splice(0))
  }

  async #run(wanted: readonly Wanted[]): Promise<void> {
    const keys = wanted.map(({ key }) => key)
    try {
      const contexts = wanted.map(({ context }) => context)
      const loaded = await this.#asOne(wanted, async () => this.#load(keys, contexts))
      const isMap = loaded instanceof Map
      if (!isMap && (!Array.isArray(loaded) || loaded.length !== keys.length)) {
        throw new LoadedError(keys.length, Array.isArray(loaded) ? `${loaded.length} values` : typeof loaded)
      }
      for (const [i, { key, resolve }] of wanted.entries()) {
        resolve(isMap ? (loaded as ReadonlyMap<string, unknown>).get(key) : (loaded as unknown[])[i])
      }
    } catch (error) {
      for (const { reject } of wanted) reject(error)
    }
  }

  /** All their flights wait for the first one: what it asks the cache for must not be one of them. */
  async #asOne<R>(wanted: readonly Wanted[], load: () => Promise<R>): Promise<R> {
    const [first, ...others] = wanted.flatMap(({ flight }) => flight ?? [])
    if (!first) return load()
    for (const flight of others) (flight.waitsFor ??= new Set()).add(first)
    try {
      return await this.#flights.run(first, load)
    } finally {
      for (const flight of others) flight.waitsFor?.delete(first)
    }
  }
}
