/**
 * Runs work for a key for callers that need a result which was begun after they asked.
 *
 * The first caller's work runs at once. Callers that come while it runs must not have its result: the first of them runs
 * its own work afterwards, and the others share that. So there are at most two runs for any number of callers at once.
 */
export class Batches<T> {
  readonly #running = new Map<string, { done: Promise<unknown>; next: Promise<T> | undefined }>()

  run(key: string, work: () => Promise<T>): Promise<T> {
    const running = this.#running.get(key)
    if (!running) return this.#start(key, work)
    running.next ??= running.done.then(
      () => this.#start(key, work),
      () => this.#start(key, work)
    )
    return running.next
  }

  #start(key: string, work: () => Promise<T>): Promise<T> {
    const done = work()
    const batch = { done, next: undefined }
    this.#running.set(key, batch)
    const end = (): void => {
      if (this.#running.get(key) === batch) this.#running.delete(key)
    }
    done.then(end, end)
    return done
  }
}
