import type { PendingOperations } from '../lifecycle/session-state.js'

/** The promise of something that a session does. Knows whether a caller waits for it. */
class Operation<T> extends Promise<T> {
  /** What `then` makes of it is the caller's own. */
  static override get [Symbol.species](): PromiseConstructor {
    return Promise
  }

  awaited = false

  /** What it throws, or `undefined`. Looking at it is not waiting for it. */
  readonly failure = super.then(
    () => undefined,
    (error: unknown) => ({ error })
  )

  // oxlint-disable-next-line unicorn/no-thenable -- it is a promise
  override then<Value = T, Reason = never>(
    fulfilled?: ((value: T) => Value | PromiseLike<Value>) | null,
    rejected?: ((reason: unknown) => Reason | PromiseLike<Reason>) | null
  ): Promise<Value | Reason> {
    this.awaited = true
    return super.then(fulfilled, rejected)
  }
}

/** Called with operations that were not awaited: those under way when the response was ready, and all that failed. */
export type Forgotten = (name: string, failure?: { readonly error: unknown }) => void

/** What a request has its session do, so that the response can wait for it even if the handler does not. */
export class Operations implements PendingOperations {
  readonly #forgotten: Forgotten
  /** Under way, or failed without a caller having waited. */
  readonly #open = new Map<Operation<unknown>, string>()

  constructor(forgotten: Forgotten) {
    this.#forgotten = forgotten
  }

  get open(): boolean {
    return this.#open.size > 0
  }

  begin<T>(name: string, run: () => Promise<T>): Promise<T> {
    const operation = new Operation<T>((resolve) => resolve(run()))
    this.#open.set(operation, name)
    void operation.failure.then((failure) => {
      if (!failure) return this.#open.delete(operation)
      // An `await` takes some microtasks to arrive.
      return process.nextTick(() => {
        if (operation.awaited) this.#open.delete(operation)
        else this.#forgotten(name, failure)
      })
    })
    return operation
  }

  /**
   * Waits for all, also for those that follow on one another.
   * @throws what the first one threw that no caller waits for
   */
  async ended(): Promise<void> {
    let first: { readonly error: unknown } | undefined
    while (this.open) {
      for (const [operation, name] of this.#open) {
        const failure = await operation.failure
        this.#open.delete(operation)
        if (operation.awaited) continue
        if (failure) first ??= failure
        else this.#forgotten(name)
      }
      await new Promise(setImmediate)
    }
    if (first) throw first.error
  }
}
