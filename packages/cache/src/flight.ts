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
  readonly waitsFor: Set<Flight>
  /** Whether Redis is still being asked, or the factory runs. */
  phase: 'redis' | 'factory'
  readonly outcome: Promise<Outcome>
}

/** The flight whose factory is running, in the asynchronous context of that factory. */
const running = new AsyncScope<Flight>()

export class Flights {
  readonly #flights = new Map<string, Flight>()

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
    let begin!: (outcome: Promise<Outcome>) => void
    const flight: Flight = {
      address,
      waitsFor: new Set(),
      phase: 'redis',
      outcome: new Promise((resolve) => (begin = resolve))
    }
    if (listed) this.#flights.set(address.id, flight)
    // Before the factory runs, which it may within this call: it must not wait for who waits for it.
    if (awaited) running.current?.waitsFor.add(flight)
    begin(
      work(flight).finally(() => {
        if (this.#flights.get(address.id) === flight) this.#flights.delete(address.id)
      })
    )
    // Callers get the rejection; a refresh in the background has none.
    flight.outcome.catch(() => undefined)
    return flight
  }

  /** Lets the factory of the running flight wait for `flight`. */
  async await<T>(flight: Flight, outcome: Promise<T>): Promise<T> {
    const waiting = running.current
    if (!waiting) return outcome
    if (reaches(flight, waiting)) {
      throw new DeadlockError(
        `'${waiting.address.key}' waits for '${flight.address.key}', which waits for it`
      )
    }
    waiting.waitsFor.add(flight)
    try {
      return await outcome
    } finally {
      waiting.waitsFor.delete(flight)
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
    queue.push(...flight.waitsFor)
  }
  return false
}
