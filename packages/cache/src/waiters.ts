import { localNow } from './clock.js'

const REMEMBERED = 1000

/** Callers of this process that wait until another process has filled, given up or lost a lease. */
export class Waiters {
  readonly #waiting = new Map<string, Set<() => void>>()
  /** Leases that ended lately and when, for a waiter whose own reply was overtaken by the news. */
  readonly #ended = new Map<string, number>()

  /** Told by the notification channel: the lease under this key has ended. */
  wake(leaseKey: string): void {
    this.#ended.delete(leaseKey)
    this.#ended.set(leaseKey, localNow())
    if (this.#ended.size > REMEMBERED) this.#ended.delete(this.#ended.keys().next().value!)
    for (const resume of this.#waiting.get(leaseKey) ?? []) resume()
  }

  /** Resolves when woken, after `ms`, or at once where the lease has ended since `since`. */
  wait(leaseKey: string, ms: number, since: number): Promise<void> {
    if ((this.#ended.get(leaseKey) ?? 0) >= since) return Promise.resolve()
    return new Promise((resolve) => {
      const all = this.#waiting.get(leaseKey) ?? new Set()
      this.#waiting.set(leaseKey, all)
      const resume = (): void => {
        clearTimeout(timer)
        all.delete(resume)
        if (all.size === 0) this.#waiting.delete(leaseKey)
        resolve()
      }
      const timer = setTimeout(resume, ms)
      timer.unref()
      all.add(resume)
    })
  }

  wakeAll(): void {
    for (const all of this.#waiting.values()) for (const resume of all) resume()
  }
}
