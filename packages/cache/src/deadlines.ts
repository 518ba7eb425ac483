/** One piece of work in the queue, which ends at `at` or when it settles. */
interface Pending {
  readonly at: number
  readonly fail: (error: Error) => void
  earlier: Pending | undefined
  later: Pending | undefined
}

/** Bounds many pieces of work by the same time, with one timer for all: the first to begin is the first to be late. */
export class Deadlines {
  readonly #ms: number
  #first: Pending | undefined
  #last: Pending | undefined
  #armed = false

  constructor(ms: number) {
    this.#ms = ms
  }

  /** Rejects where the work has not settled in time; the work itself goes on and its outcome is dropped. */
  within<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const one = this.#add(reject)
      work.then(
        (value) => {
          this.#remove(one)
          return resolve(value)
        },
        (error: unknown) => {
          this.#remove(one)
          reject(error instanceof Error ? error : new Error(String(error)))
        }
      )
    })
  }

  #add(fail: (error: Error) => void): Pending {
    const one: Pending = { at: performance.now() + this.#ms, fail, earlier: this.#last, later: undefined }
    if (this.#last) this.#last.later = one
    else this.#first = one
    this.#last = one
    this.#arm()
    return one
  }

  #remove(one: Pending): void {
    if (one.earlier) one.earlier.later = one.later
    else if (this.#first === one) this.#first = one.later
    if (one.later) one.later.earlier = one.earlier
    else if (this.#last === one) this.#last = one.earlier
    one.earlier = one.later = undefined
  }

  #arm(): void {
    if (this.#armed || !this.#first) return
    this.#armed = true
    const timer = setTimeout(
      () => {
        this.#armed = false
        const now = performance.now()
        for (let one = this.#first; one && one.at <= now; one = this.#first) {
          this.#remove(one)
          one.fail(new Error(`no answer in ${this.#ms} ms`))
        }
        this.#arm()
      },
      Math.max(1, this.#first.at - performance.now())
    )
    timer.unref()
  }
}
