import type { ConsistencyToken, Duration } from '@flotilla/core'
import { startTimer } from './clock.js'
import { FactoryTimeoutError, NoStaleError } from './errors.js'
import { checkTags, ttlMs } from './options.js'

/** What a factory is given. */
export interface FactoryContext<T = unknown> {
  /** The key that is computed, within its namespace. */
  readonly key: string
  /** Aborted when `timeout` has passed or the app closes. */
  readonly signal: AbortSignal
  /** The value that is being replaced, where there still is one. */
  readonly stale: T | undefined
  /**
   * The token of the latest invalidation of the tags named so far (`invalidateTags(tags, { after })`): read no
   * older state than this, as with `db.read.after(ctx.after)`. Asking for it counts as keeping to it.
   */
  readonly after: ConsistencyToken | undefined
  /** Nobody waits: an old value is served meanwhile. */
  readonly background: boolean
  /** Adds tags to the entry. Name them before reading what they stand for. */
  tags(...tags: (string | readonly string[])[]): void
  /** Sets the entry's `ttl`, in place of that of the options; at most `maxTtl`. 0 does not store it. */
  ttl(ttl: Duration): void
  /** Returns the value to the callers without storing it. */
  skip(): void
  /**
   * The old value, to be returned as the new one with its tags and a life of its own: the source says that it has not changed.
   * @throws FLOTILLA_CACHE_ERR_NO_STALE if `stale` is undefined
   */
  notModified(): T
  /**
   * Says that what is read is no older than this token. A value whose tags were invalidated with a token that
   * nothing said here covers is returned and not stored.
   */
  consistentWith(token: ConsistencyToken | undefined): void
}

/**
 * Computes a value. `undefined` is "none" and is not stored; `null` is a value.
 *
 * @typeParam T - what it computes
 * @typeParam V - what the cache holds; apart from `T`, which is inferred from what is returned
 */
export type Factory<T, V = T> = (context: FactoryContext<V>) => T | Promise<T>

/** What a factory said about its value. */
export class Context implements FactoryContext {
  readonly key: string
  readonly stale: unknown
  /** Tags of the entry that holds `stale`. */
  readonly staleTags: readonly string[]
  readonly background: boolean
  skipped = false
  /** Whoever computed it gave up: those who wait do not share that, one of them begins anew. */
  abandoned = false
  ttlMs: number | undefined
  /** In place of the policy's. */
  swrMs: number | undefined
  graceMs: number | undefined
  readonly said: ConsistencyToken[] = []
  readonly #abort: () => AbortController
  readonly #addTags: (tags: readonly string[]) => void
  readonly #after: () => ConsistencyToken | undefined
  readonly #maxTtl: number

  constructor(parts: {
    key: string
    stale: unknown
    staleTags: readonly string[]
    background: boolean
    abort: () => AbortController
    addTags: (tags: readonly string[]) => void
    after: () => ConsistencyToken | undefined
    maxTtl: number
  }) {
    this.key = parts.key
    this.stale = parts.stale
    this.staleTags = parts.staleTags
    this.background = parts.background
    this.#abort = parts.abort
    this.#addTags = parts.addTags
    this.#after = parts.after
    this.#maxTtl = parts.maxTtl
  }

  get signal(): AbortSignal {
    return this.#abort().signal
  }

  get after(): ConsistencyToken | undefined {
    return this.#after()
  }

  tags(...tags: (string | readonly string[])[]): void {
    this.#addTags(checkTags(tags.flat()))
  }

  ttl(ttl: Duration): void {
    this.ttlMs = ttlMs('ttl', ttl, undefined, this.#maxTtl)
  }

  skip(): void {
    this.skipped = true
  }

  notModified(): unknown {
    if (this.stale === undefined) throw new NoStaleError(this.key)
    this.#addTags(this.staleTags)
    return this.stale
  }

  consistentWith(token: ConsistencyToken | undefined): void {
    if (token !== undefined) this.said.push(token)
  }
}

/** Ends a factory under way from outside: its signal is aborted and its callers are refused. */
export type Cancel = (error: Error) => void

/**
 * Runs a factory for at most `timeout`. One that does not settle in time is aborted and left behind; what it
 * brings later is dropped.
 *
 * @param underWay holds the way to cancel it for as long as it runs
 * @throws FLOTILLA_CACHE_ERR_FACTORY_TIMEOUT, or what the factory threw
 */
export function runBounded<T>(
  key: string,
  timeout: number,
  abort: () => AbortController,
  underWay: Set<Cancel>,
  work: () => T | Promise<T>
): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const cancel: Cancel = (error) => {
      end()
      abort().abort(error)
      reject(error)
    }
    const endTimer = startTimer(timeout, () => cancel(new FactoryTimeoutError(key, timeout)))
    const end = (): void => {
      endTimer()
      underWay.delete(cancel)
    }
    underWay.add(cancel)
    const settle =
      <A>(done: (result: A) => void) =>
      (result: A): void => {
        end()
        done(result)
      }
    try {
      Promise.resolve(work()).then(settle(resolve), settle(reject))
    } catch (error) {
      settle(reject)(error)
    }
  })
}
