import { AsyncScope } from './async-scope.js'
import { DeadlockError } from './errors.js'
import type { Address } from './remote.js'

export interface Outcome {
  readonly value: unknown
  /**
   * False where the key or one of its tags was invalidated meanwhile: the caller that began it may have
   * the value, those that came later must not.
   */
  readonly shared: boolean
}

/** One computation under way in this process, which all callers of its key join. */
export interface Flight {
  readonly address: Address
  /** Flights whose outcome this one's factory waits for. */
  waitsFor: Set<Flight> | undefined
  /** Whether Redis is still being asked, or the factory runs. */
  phase: 'redis' | 'factory'
  /** Set once the call that began it has returned. */
  outcome: Promise<Outcome> | undefined
}

/** The flight whose factory is running, in the asynchronous context of that factory. */
const running = new AsyncScope<Flight>()

export class Flights {
  readonly #flights = new Map<string, Flight>()

  /** How many keys are being read or computed. */
  get size(): number {
    return this.#flights.size
  }

  get(id: string): Flight | undefined {
    return this.#flights.get(id)
  }

  /**
   * @param listed false for one that nobody may join
   * @param awaited the caller goes on to {@link await} it; a refresh in the background is not waited for
   * @param work is called with the flight, at once
   */
  start(
    address: Address,
    listed: boolean,
    awaited: boolean,
    work: (flight: Flight) => Promise<Outcome>
  ): Flight {
    const flight: Flight = { address, waitsFor: undefined, phase: 'redis', outcome: undefined }
    if (listed) this.#flights.set(address.id, flight)
    // Before the factory runs, which it may within this call: it must not wait for who waits for it.
    const waiting = awaited ? running.current : undefined
    if (waiting) (waiting.waitsFor ??= new Set()).add(flight)
    flight.outcome = this.#land(flight, work)
    return flight
  }

  /** The outcome; lets the factory of the running flight wait for it. */
  await(flight: Flight): Promise<Outcome> {
    // Joined within the very call that begins it.
    const outcome = flight.outcome ?? Promise.resolve().then(() => flight.outcome!)
    const waiting = running.current
    return waiting ? this.#awaitFrom(waiting, flight, outcome) : outcome
  }

  async #land(flight: Flight, work: (flight: Flight) => Promise<Outcome>): Promise<Outcome> {
    try {
      return await work(flight)
    } finally {
      const { id } = flight.address
      if (this.#flights.get(id) === flight) this.#flights.delete(id)
    }
  }

  async #awaitFrom(waiting: Flight, flight: Flight, outcome: Promise<Outcome>): Promise<Outcome> {
    if (reaches(flight, waiting)) {
      // It fails for its own callers.
      outcome.catch(() => undefined)
      throw new DeadlockError(
        `'${waiting.address.key}' waits for '${flight.address.key}', which waits for it`
      )
    }
    const all = (waiting.waitsFor ??= new Set())
    all.add(flight)
    try {
      return await outcome
    } finally {
      all.delete(flight)
    }
  }

  /** Runs the factory of this flight: what it asks the cache for is known to be asked by it. */
  run<T>(flight: Flight, factory: () => Promise<T>): Promise<T> {
    return running.run(flight, factory)
  }
}

function reaches(from: Flight, target: Flight): boolean {
  const seen = new Set<Flight>()
  const queue = [from]
  for (let flight = queue.pop(); flight; flight = queue.pop()) {
    if (flight === target) return true
    if (seen.has(flight)) continue
    seen.add(flight)
    if (flight.waitsFor) queue.push(...flight.waitsFor)
  }
  return false
}
