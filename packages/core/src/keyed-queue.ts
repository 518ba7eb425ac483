/** Runs the tasks of one key one after another, in the order in which they came; those of different keys at the same time. */
export class KeyedQueue {
  /** The last task of each key that has one. */
  readonly #tails = new Map<string, Promise<unknown>>()

  /** Keys that have tasks now. */
  get size(): number {
    return this.#tails.size
  }

  /** Whether a task of this key runs or waits: {@link run} would not begin at once. */
  has(key: string): boolean {
    return this.#tails.has(key)
  }

  /**
   * Runs a task when all earlier ones of its key have settled, whatever their outcome; at once, in this turn, if there is none. A
   * task must not wait for another one of its own key.
   */
  run<T>(key: string, task: () => T | PromiseLike<T>): Promise<T> {
    const previous = this.#tails.get(key)
    const current = previous ? after(previous, task) : begin(task)
    this.#tails.set(key, current)
    const forget = (): void => {
      if (this.#tails.get(key) === current) this.#tails.delete(key)
    }
    current.then(forget, forget)
    return current
  }
}

async function begin<T>(task: () => T | PromiseLike<T>): Promise<T> {
  return task()
}

function after<T>(previous: Promise<unknown>, task: () => T | PromiseLike<T>): Promise<T> {
  return previous.then(
    () => task(),
    () => task()
  )
}
