import { AsyncLocalStorage } from 'node:async_hooks'

/**
 * A value that work finds again in everything it does and awaits. It is switched off while no such work runs: up to
 * Node.js 22 an AsyncLocalStorage in use doubles the price of every promise of the process, hits in memory among them.
 */
export class AsyncScope<T> {
  readonly #storage = new AsyncLocalStorage<T>()
  #running = 0

  get current(): T | undefined {
    return this.#running === 0 ? undefined : this.#storage.getStore()
  }

  /** What `work` leaves behind when it has settled has no value any more once all other work has settled, too. */
  async run<R>(value: T, work: () => R | Promise<R>): Promise<R> {
    this.#running++
    try {
      return await this.#storage.run(value, work)
    } finally {
      if (--this.#running === 0) this.#storage.disable()
    }
  }
}
