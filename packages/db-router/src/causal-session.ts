import { laterOf, type Position } from './token.js'

export interface CausalSessionOptions {
  /** What reads must see from the start. */
  position?: Position | undefined
  /** Fetches what an earlier request of the same author wrote. */
  load?: (() => Promise<Position | undefined>) | undefined
  /** Whether {@link CausalSession.abort} will ever be called: statements that nothing ends need not be kept track of. */
  abortable?: boolean
  /** Aborts it. It may outlive many sessions, so it is listened to only while something is under way. */
  signal?: AbortSignal | undefined
}

/** What one author has written and must therefore read: the writes of one request, job, or app. */
export class CausalSession {
  /** Reads must see everything up to here. */
  position: Position | undefined
  /** Whether a write of this session moved `position`, so that its carrier has something to store. */
  advanced = false
  /** Whether a write's position was not learnt and none after it was either. */
  uncertain = false
  /** Until when only the primary is safe, because a write's position could not be learnt. */
  #pinnedUntil = 0
  readonly #pinFor: number
  /** Writes whose position is still on its way. */
  settling: Promise<unknown> | undefined
  /** Fetches what an earlier request wrote; run before the first read, once. */
  #load: (() => Promise<Position | undefined>) | undefined
  #loading: Promise<void> | undefined
  readonly #abortable: boolean
  #aborts: Set<() => void> | undefined
  #aborted = false
  readonly #signal: AbortSignal | undefined
  #parent: CausalSession | undefined

  /** @param pinFor milliseconds after which a replica that is still in use has caught up in any case */
  constructor(
    pinFor: number,
    { position, load, signal, abortable = signal !== undefined }: CausalSessionOptions = {}
  ) {
    this.#pinFor = pinFor
    this.position = position
    this.#load = load
    this.#signal = signal
    this.#abortable = abortable
  }

  /** Whether a read can be placed without waiting for anything. */
  get ready(): boolean {
    return this.#load === undefined && this.settling === undefined
  }

  async prepare(): Promise<void> {
    if (this.#load) {
      this.#loading ??= this.#fetch(this.#load)
      await this.#loading
    }
    while (this.settling) await this.settling
  }

  async #fetch(load: () => Promise<Position | undefined>): Promise<void> {
    try {
      const position = await load()
      if (position) this.require(position)
    } catch {
      // What the author wrote before is unknown: the primary has it in any case.
      this.pin()
    }
    this.#load = undefined
  }

  /** A write of this session ended at `position`. */
  wrote(position: Position): void {
    this.position = laterOf(this.position, position)
    this.advanced = true
    this.uncertain = false
    this.#pinnedUntil = 0
  }

  get pinned(): boolean {
    return this.#pinnedUntil !== 0 && performance.now() < this.#pinnedUntil
  }

  pin(): void {
    this.#pinnedUntil = performance.now() + this.#pinFor
  }

  /** A write of this session may have been committed, at a position that was not learnt. */
  lost(): void {
    this.uncertain = true
    this.pin()
  }

  /** Something at `position` was seen or announced: reads must not be older. */
  require(position: Position): void {
    this.position = laterOf(this.position, position)
  }

  /** Reads wait until `work`, which learns a write's position, is over. */
  settle(work: Promise<void>): void {
    const all = Promise.allSettled([this.settling, work]).finally(() => {
      if (this.settling === all) this.settling = undefined
    })
    this.settling = all
  }

  /** A session that must see what this one must, and more; it ends with this one. */
  derive(): CausalSession {
    const derived = new CausalSession(this.#pinFor, {
      position: this.position,
      load: async () => {
        await this.prepare()
        if (this.pinned) derived.pin()
        return this.position
      },
      abortable: this.#abortable
    })
    if (this.ready) derived.#load = undefined
    if (this.pinned) derived.pin()
    derived.#parent = this
    return derived
  }

  get aborted(): boolean {
    return this.#aborted || this.#signal?.aborted === true || this.#parent?.aborted === true
  }

  /** Cancels what runs; what is asked for later fails at once. */
  abort(): void {
    this.#aborted = true
    for (const cancel of this.#aborts ?? []) cancel()
    this.#aborts = undefined
  }

  /** The signal's event. */
  handleEvent(): void {
    this.abort()
  }

  /** Has `cancel` called when the session is aborted. */
  onAbort(cancel: () => void): void {
    if (!this.#abortable) return
    if (this.#parent) return this.#parent.onAbort(cancel)
    this.#aborts ??= new Set()
    if (this.#aborts.size === 0) this.#signal?.addEventListener('abort', this)
    this.#aborts.add(cancel)
  }

  offAbort(cancel: () => void): void {
    if (!this.#abortable) return
    if (this.#parent) return this.#parent.offAbort(cancel)
    this.#aborts?.delete(cancel)
    if (!this.#aborts?.size) this.#signal?.removeEventListener('abort', this)
  }
}
