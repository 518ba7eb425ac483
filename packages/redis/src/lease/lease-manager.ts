import { randomBytes } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { RedisClosedError } from '../errors.js'
import type { RedisClient } from '../redis-client.js'
import { withoutArguments } from '../reply-error.js'
import { HeldLease, type Lease } from './held-lease.js'
import { readLeaseOptions, type LeaseOptions, type LeaseSettings } from './lease-options.js'
import { LeaseStore, type HeldElsewhere } from './lease-store.js'

/** The work was not run. */
export interface NotRun {
  /** The work was not run. */
  readonly ran: false
  /** Another instance holds the lease, or this one is going away. */
  readonly reason: 'held' | 'closing'
  /** With `'held'`: the id of that instance, as the bus knows it. */
  readonly heldBy?: string
}

/** How a call of `withLease` ended. */
export type LeaseResult<T> = { readonly ran: true; readonly value: T; readonly token: number } | NotRun

/** Something that runs while the lease is held. */
export type LeasedWork<T> = (lease: Lease) => T | Promise<T>

/** Longest pause between two tries to take a lease that another holds, in milliseconds. */
const POLL_MS = 1_000

interface Running {
  readonly lease: HeldLease
  readonly stopMs: number
  /** Resolves when the work is over and the lease given back. */
  readonly over: Promise<void>
}

/**
 * The leases of one app.
 *
 * `open ── stop() ──► closing`: what waits for a lease gives up, what runs is asked to end and keeps its lease until it has.
 * Calls run concurrently, also those for the same name: each has a holder id of its own, and they exclude each other.
 */
export class LeaseManager {
  readonly #client: RedisClient
  readonly #instance: string
  readonly #log: FastifyBaseLogger
  readonly #closing = new AbortController()
  readonly #running = new Set<Running>()
  #stopped: Promise<void> | undefined

  constructor(client: RedisClient, instance: string, log: FastifyBaseLogger) {
    // One listener for each call that waits.
    setMaxListeners(0, this.#closing.signal)
    this.#client = client
    this.#instance = instance
    this.#log = log
  }

  async withLease<T>(name: string, work: LeasedWork<T>, options: LeaseOptions = {}): Promise<LeaseResult<T>> {
    const settings = readLeaseOptions(name, options)
    const taken = await this.#take(name, settings)
    if (!(taken instanceof HeldLease)) return taken
    if (!this.#closing.signal.aborted) return this.#run(taken, work, settings)
    // The instance began to go away while the lease was on its way.
    await this.#giveBack(taken, 0)
    return { ran: false, reason: 'closing' }
  }

  /** Asks all work to end, and waits for it: for as long as each asked for, and not beyond the deadline. */
  stop(deadlineMs = Infinity): Promise<void> {
    this.#stopped ??= this.#stop(deadlineMs)
    return this.#stopped
  }

  /** Tries until the lease is taken, or there is no more time. */
  async #take(name: string, settings: LeaseSettings): Promise<HeldLease | NotRun> {
    const { waitMs, signal } = settings
    const end = performance.now() + waitMs
    const stop = signal ? AbortSignal.any([signal, this.#closing.signal]) : this.#closing.signal
    for (;;) {
      signal?.throwIfAborted()
      if (this.#closing.signal.aborted) return { ran: false, reason: 'closing' }
      const outcome = await this.#try(name, settings)
      if (outcome instanceof HeldLease) return outcome
      const left = end - performance.now()
      if (left <= 0) {
        if (outcome instanceof Error) throw outcome
        return { ran: false, reason: 'held', heldBy: outcome.heldBy.replace(/\/[^/]*$/, '') }
      }
      const pause = outcome instanceof Error ? POLL_MS : Math.min(POLL_MS, Math.max(20, outcome.leftMs))
      // Instances that wait for the same lease spread out.
      await sleep(Math.min(left, pause * (0.5 + Math.random() / 2)), stop)
    }
  }

  async #try(name: string, settings: LeaseSettings): Promise<HeldLease | HeldElsewhere | Error> {
    // A new holder each time: a try whose reply was lost must not be mistaken for the next one.
    const holder = `${this.#instance}/${randomBytes(6).toString('base64url')}`
    const store = new LeaseStore(this.#client, name, { ...settings, holder })
    const askedAt = performance.now()
    try {
      const outcome = await store.acquire()
      if (!('token' in outcome)) return outcome
      return new HeldLease(store, { name, token: outcome.token, ttlMs: settings.ttlMs, askedAt })
    } catch (error) {
      // It may have been taken all the same: then it should not stand in the way of the next.
      void store.release(0).catch(() => {})
      withoutArguments(error)
      return error instanceof Error ? error : new Error(String(error))
    }
  }

  async #run<T>(
    lease: HeldLease,
    work: LeasedWork<T>,
    { atLeastMs, stopMs, signal }: LeaseSettings
  ): Promise<LeaseResult<T>> {
    let finish: () => void = () => {}
    const running = { lease, stopMs, over: new Promise<void>((resolve) => (finish = resolve)) }
    this.#running.add(running)
    const onAbort = (): void => lease.stop(signal?.reason)
    signal?.addEventListener('abort', onAbort, { once: true })
    if (signal?.aborted) onAbort()
    try {
      const value = await work(lease)
      if (lease.loss) throw lease.loss
      return { ran: true, value, token: lease.token }
    } catch (error) {
      throw lease.loss && error !== lease.loss ? Object.assign(lease.loss, { cause: error }) : error
    } finally {
      signal?.removeEventListener('abort', onAbort)
      await this.#giveBack(lease, Math.max(0, atLeastMs - lease.heldMs))
      this.#running.delete(running)
      finish()
    }
  }

  async #giveBack(lease: HeldLease, stayMs: number): Promise<void> {
    try {
      await lease.end(stayMs)
    } catch (error) {
      this.#log.warn(
        { err: withoutArguments(error), lease: lease.name },
        'a lease was not given back; it lapses by itself'
      )
    }
  }

  async #stop(deadlineMs: number): Promise<void> {
    const reason = new RedisClosedError('@flotilla/redis: the instance is going away')
    this.#closing.abort(reason)
    for (const { lease } of this.#running) lease.stop(reason)
    await Promise.all(
      [...this.#running].map(async ({ lease, stopMs, over }) => {
        const limit = Math.min(stopMs, Math.max(0, deadlineMs))
        if (await endsWithin(over, limit)) return
        lease.leave()
        this.#log.warn(
          { lease: lease.name, waitedMs: Math.round(limit) },
          'the work under a lease did not end; the lease is renewed no more and lapses by itself'
        )
      })
    )
  }
}

async function endsWithin(over: Promise<void>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), ms)
  })
  const ended = await Promise.race([over.then(() => true), late])
  clearTimeout(timer)
  return ended
}

/** Resolves after a time, or at once when the signal is aborted. */
function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms).unref()
    signal.addEventListener('abort', done, { once: true })
    if (signal.aborted) done()
  })
}
