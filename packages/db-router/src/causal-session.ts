import { laterOf, type Position } from './token.js'

/** Where what an earlier request of the same author wrote is kept. */
export interface Origin {
  /** Whether nothing is known to be there as yet: asked at each read, until something is. */
  isEmpty(): boolean
  /** Fetches it. Rejecting means that it is unknown. */
  load(): Promise<Position | undefined>
  /** Whether that is at hand: then `peek` returns it too, and throws where `load` would reject. */
  readonly atHand: boolean
  peek(): Position | undefined
}

export interface CausalSessionOptions {
  origin?: Origin | undefined
  /** Whether {@link CausalSession.abort} will ever be called: statements that nothing ends need not be kept track of. */
  abortable?: boolean
  /** Aborts it. It may outlive many sessions, so it is listened to only while something is under way. */
  signal?: AbortSignal | undefined
}

/** What one author has written and must therefore read: the writes of one request, job, or app. */
export class CausalSession {
  #position: Position | undefined
  /** Whether a write of this session moved `position`, so that its carrier has something to store. */
  advanced = false
  /** Whether a write's position was not learnt and none after it was either. */
  uncertain = false
  /** Until when only the primary is safe, because a write's position could not be learnt. */
  #pinnedUntil = 0
  readonly #pinFor: number
  /** Writes whose position is still on its way. */
  settling: Promise<unknown> | undefined
  /** Loaded before the first read that finds something there, once. */
  #origin: Origin | undefined
  #loading: Promise<void> | undefined
  readonly #abortable: boolean
  #aborts: Set<() => void> | undefined
  #aborted = false
  readonly #signal: AbortSignal | undefined
  #parent: CausalSession | undefined

  /** @param pinFor milliseconds after which a replica that is still in use has caught up in any case */
  constructor(
    pinFor: number,
    { origin, signal, abortable = signal !== undefined }: CausalSessionOptions = {}
  ) {
    this.#pinFor = pinFor
    this.#origin = origin
    this.#signal = signal
    this.#abortable = abortable
  }

  /** Reads must see everything up to here. */
  get position(): Position | undefined {
    const inherited = this.#parent?.position
    return inherited && this.#position ? laterOf(inherited, this.#position) : (this.#position ?? inherited)
  }

  /** Whether a read can be placed without waiting for anything. */
  get ready(): boolean {
    return !this.#mayLoad() && this.settling === undefined && this.#parent?.ready !== false
  }

  async prepare(): Promise<void> {
    await this.#parent?.prepare()
    if (this.#mayLoad()) {
      this.#loading ??= this.#load(this.#origin!)
      await this.#loading
    }
    while (this.settling) await this.settling
  }

  #mayLoad(): boolean {
    return this.#origin !== undefined && (this.#loading !== undefined || !this.#origin.isEmpty())
  }

  /** Loads what is at hand of what its author wrote before: a write waits for no carrier. */
  peek(): void {
    if (!this.#origin?.atHand || this.#loading || this.#origin.isEmpty()) return
    try {
      const position = this.#origin.peek()
      if (position) this.require(position)
      this.#origin = undefined
    } catch {
      // A read finds that it is unknown, if it still is.
    }
  }

  async #load(origin: Origin): Promise<void> {
    try {
      const position = await origin.load()
      if (position) this.require(position)
    } catch {
      // What the author wrote before is unknown: the primary has it in any case.
      this.pin()
    }
    this.#origin = undefined
  }

  /** A write of this session ended at `position`. */
  wrote(position: Position): void {
    this.#position = laterOf(this.#position, position)
    this.advanced = true
    this.uncertain = false
    this.#pinnedUntil = 0
  }

  get pinned(): boolean {
    const own = this.#pinnedUntil !== 0 && performance.now() < this.#pinnedUntil
    return own || this.#parent?.pinned === true
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
    this.#position = laterOf(this.#position, position)
  }

  /** Reads wait until `work`, which learns a write's position, is over. */
  settle(work: Promise<void>): void {
    const all = Promise.allSettled([this.settling, work]).finally(() => {
      if (this.settling === all) this.settling = undefined
    })
    this.settling = all
  }

  /** A session for reads that must see what this one must by then, and more; it ends with this one. */
  derive(): CausalSession {
    const derived = new CausalSession(this.#pinFor, { abortable: this.#abortable })
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
