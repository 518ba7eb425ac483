import type { FastifyBaseLogger } from 'fastify'
import { localNow, type TurnClock } from './clock.js'
import { refreshEarly, standing, type Entry } from './entry.js'
import type { Factory } from './factory.js'
import { Fill, type FillParts } from './fill.js'
import { Flights, type Flight, type Outcome } from './flight.js'
import { LATE, orLate } from './late.js'
import type { Mark, Marks } from './marks.js'
import type { Memory } from './memory.js'
import { checkNames, checkTags, entryPolicy, type EntryOptions, type EntryPolicy } from './options.js'
import { discard, isDead, type EntryReader, type Space } from './reader.js'
import type { Address, Remote } from './remote.js'
import { channels } from './telemetry.js'
import type { Ticket, Tickets } from './tickets.js'
import type { Waiters } from './waiters.js'
import { newVersion, stampFor, stampOf } from './wire.js'

export interface GetOrSetOptions extends EntryOptions {
  /** Whoever invalidates one of these invalidates the entry. */
  tags?: readonly string[]
  /** Computes anew although there is a fresh value. Default false. */
  refresh?: boolean
  /**
   * Does not wait for a computation that is under way in this process or another: computes beside it.
   * @internal
   */
  impatient?: boolean
  /**
   * Called if another caller or process turns out to compute the value.
   * @internal
   */
  onWait?: () => void
}

export interface EngineParts extends FillParts {
  memory: Memory | undefined
  marks: Marks
  remote: Remote | undefined
  reader: EntryReader
  clock: TurnClock
  tickets: Tickets
  waiters: Waiters
  /** Keeps an entry in memory unless its key was invalidated while it was on its way. */
  admit: (address: Address, entry: Entry, ticket: Ticket) => void
  log: FastifyBaseLogger
  settings: FillParts['settings'] & { lease: number; redisTimeout: { soft: number; hard: number } }
}

/** One call of getOrSet, parsed. */
interface Call {
  readonly space: Space
  readonly address: Address
  readonly factory: Factory<unknown>
  readonly policy: EntryPolicy
  readonly tags: readonly string[]
  readonly anew: boolean
  readonly impatient: boolean
  readonly onWait: (() => void) | undefined
}

/** What {@link GetOrSetOptions} has besides {@link EntryOptions}. */
const CALL_NAMES = [
  'tags',
  'refresh',
  'impatient',
  'onWait'
] as const satisfies readonly (keyof GetOrSetOptions)[]

/** How often a caller joins computations that turn out older than its call before it computes for itself. */
const MAX_JOINS = 3
const FIRST_POLL_MS = 50
/** How many entries of Redis that turn out dead or unreadable are looked at in one call. */
const MAX_REFUSED = 5
const LAST_POLL_MS = 1000

/**
 * getOrSet past the quick hit: one computation of a key in this process (flights) and in the fleet (leases),
 * stale values where they are allowed, refreshes in the background.
 */
export class Engine {
  readonly flights = new Flights()
  readonly #parts: EngineParts
  readonly #fill: Fill
  readonly #background = new Set<Promise<unknown>>()

  constructor(parts: EngineParts) {
    this.#parts = parts
    this.#fill = new Fill(parts, this.flights)
  }

  async getOrSet(
    space: Space,
    address: Address,
    factory: Factory<unknown>,
    base: EntryPolicy,
    options: GetOrSetOptions | undefined
  ): Promise<unknown> {
    if (options !== undefined) checkNames('getOrSet', options, CALL_NAMES)
    const call: Call = {
      space,
      address,
      factory,
      policy: entryPolicy(base, options),
      tags: checkTags(options?.tags),
      anew: options?.refresh === true,
      impatient: options?.impatient === true,
      onWait: options?.onWait
    }
    for (let joins = 0; ; joins++) {
      const held = call.anew ? undefined : this.#usable(address)
      const served = held && this.#serve(call, held)
      if (served) return served.value
      const alone = call.anew || joins >= MAX_JOINS
      const joined = alone ? undefined : this.flights.get(address.id)
      if (joined) call.onWait?.()
      const flight = joined ?? this.#start(call, !alone, false)
      const outcome = await this.#outcome(call, flight, held)
      if (outcome === LATE) {
        this.#hit(call, 'memory', true)
        return held!.value
      }
      if (outcome.shared || !joined) return outcome.value
    }
  }

  /** Waits for refreshes in the background, and for nothing longer than `ms`. */
  async settle(ms: number): Promise<void> {
    this.#fill.abortAll()
    let timer: NodeJS.Timeout | undefined
    const deadline = new Promise((resolve) => (timer = setTimeout(resolve, ms)))
    await Promise.race([Promise.allSettled(this.#background), deadline])
    clearTimeout(timer)
  }

  /** What memory holds that may be shown to anyone at all. While Redis is away, suspect entries may. */
  #usable(address: Address): Entry | undefined {
    const { memory, marks, remote } = this.#parts
    const entry = memory?.get(address)
    if (!entry) return undefined
    const state = standing(entry, marks)
    return state === 'alive' || (state === 'suspect' && remote?.away === true) ? entry : undefined
  }

  /** The entry if this call may have it at once, with a refresh in the background where one is due. */
  #serve(call: Call, entry: Entry): Entry | undefined {
    const now = this.#parts.clock.now()
    const { policy } = call
    if (now < entry.freshUntil) {
      if (now >= entry.backoffUntil && refreshEarly(entry, policy.early, now)) this.#refresh(call)
      this.#hit(call, 'memory', false)
      return entry
    }
    const failedLately = now < entry.backoffUntil
    if (now < entry.staleUntil || (failedLately && now < entry.graceUntil)) {
      if (!failedLately) this.#refresh(call)
      this.#hit(call, 'memory', true)
      return entry
    }
    return undefined
  }

  #refresh(call: Call): void {
    if (this.flights.get(call.address.id)) return
    const outcome = this.#start(call, true, true).outcome!
    this.#background.add(outcome)
    outcome.then(
      () => this.#background.delete(outcome),
      () => this.#background.delete(outcome)
    )
  }

  #start(call: Call, listed: boolean, background: boolean): Flight {
    return this.flights.start(call.address, listed, !background, (flight) =>
      this.#lead(call, flight, background)
    )
  }

  /** Waits for the flight; if an old value may be served, not longer than the soft timeouts. */
  #outcome(call: Call, flight: Flight, held: Entry | undefined): Promise<Outcome | typeof LATE> {
    const waiting = this.flights.await(flight)
    if (!held || this.#parts.clock.now() >= held.graceUntil) return waiting
    const { softTimeout } = call.policy
    return orLate(flight, waiting, { redisMs: this.#parts.settings.redisTimeout.soft, softTimeout })
  }

  async #lead(call: Call, flight: Flight, background: boolean): Promise<Outcome> {
    const { marks, names, tickets } = this.#parts
    const ticket = tickets.begin(call.address.id)
    const tags = call.tags.map((tag) => marks.hold(names.tag(tag)))
    const { generations } = call.space
    const depends = tags.length === 0 ? generations : [...generations, ...tags]
    // Entries of Redis that are only looked at.
    const loose: Entry[] = []
    try {
      return await this.#find(call, flight, ticket, background, depends, loose)
    } finally {
      tickets.end(ticket)
      for (const entry of loose) discard(entry, marks)
      for (const mark of tags) marks.release(mark)
    }
  }

  /** Asks Redis for the value or the lease until there is one of them, or a reason to do without. */
  async #find(
    call: Call,
    flight: Flight,
    ticket: Ticket,
    background: boolean,
    depends: readonly Mark[],
    loose: Entry[]
  ): Promise<Outcome> {
    const { memory, marks, remote, waiters, settings } = this.#parts
    const { space, address, factory, policy, tags } = call
    const known = memory?.peek(address)
    let waitedSince = 0
    const tellWait = (): void => {
      if (waitedSince > 0 && channels.wait.active) {
        const durationMs = performance.now() - waitedSince
        channels.wait.publish({ ns: space.name, key: address.key, durationMs })
      }
      waitedSince = 0
    }
    const run = (lease?: { token: string; began: number }, grace?: Entry): Promise<Outcome> => {
      flight.phase = 'factory'
      tellWait()
      if (!background && channels.miss.active) channels.miss.publish({ ns: space.name, key: address.key })
      return this.#fill.run({
        space,
        address,
        factory,
        policy,
        tags,
        flight,
        ticket,
        background,
        lease,
        grace,
        depends
      })
    }
    if (!remote) return run(undefined, known && !isDead(known) ? known : undefined)
    // An entry of memory that is only suspect may be confirmed; one that is dead or too old cannot.
    let seen: Buffer | '*' | '' = known && this.#spent(known, background) ? stampFor(known.version) : ''
    if (call.anew) seen = '*'
    let grace = known && !isDead(known) ? known : undefined
    const token = newVersion()
    const deadline = localNow() + policy.timeout + settings.lease
    let poll = FIRST_POLL_MS
    let refused = 0
    let useless: Buffer | undefined
    for (;;) {
      const askedAt = localNow()
      let reply
      try {
        reply = await remote.acquire(address, token, seen, depends)
      } catch {
        return run(undefined, grace)
      }
      if (reply.state === 'wait') {
        // Whoever joined a refresh and needs its value asks again, and waits.
        if (background) return { value: undefined, shared: false }
        if (call.impatient || localNow() >= deadline) return run(undefined, grace)
        waitedSince ||= performance.now()
        call.onWait?.()
        await waiters.wait(address.leaseKey, Math.min(poll, reply.leaseMs + 5), askedAt)
        poll = Math.min(poll * 1.5, LAST_POLL_MS)
        continue
      }
      tellWait()
      // Redis may hand the same bytes over again with the lease: of no more use, and nothing to report twice.
      const same = reply.bytes !== undefined && useless?.equals(reply.bytes)
      const entry =
        reply.bytes && !same && (await this.#parts.reader.open(space, address, reply.bytes, known))
      if (reply.bytes && !entry) useless = reply.bytes
      if (reply.state === 'value' && entry && this.#acceptable(entry, background)) {
        return this.#accept(call, entry, ticket)
      }
      if (entry && entry !== known) loose.push(entry)
      if (reply.state === 'value') {
        // One that another process keeps replacing with what is of no use here, or of no bytes at all: any will do.
        seen = reply.bytes.length > 0 && ++refused < MAX_REFUSED ? stampOf(reply.bytes) : '*'
        if (entry) grace = entry
        continue
      }
      if (entry) grace = entry
      // Redis has it no more, and its deletion may be what was missed.
      else if (grace && !reply.bytes && grace.epoch !== marks.epoch) grace = undefined
      if (reply.state === 'cool') {
        // It may have been invalidated while another process computed.
        if (!grace || isDead(grace) || localNow() >= Math.max(grace.staleUntil, grace.graceUntil))
          return run()
        this.#backOff(grace, policy)
        if (!background) this.#hit(call, grace === known ? 'memory' : 'redis', localNow() >= grace.freshUntil)
        return { value: grace.value, shared: !ticket.spoilt }
      }
      return run({ token, began: reply.began }, grace)
    }
  }

  /** Whether there is no need to see this entry again: Redis need not send it. */
  #spent(entry: Entry, background: boolean): boolean {
    return background || isDead(entry) || localNow() >= entry.freshUntil
  }

  #acceptable(entry: Entry, background: boolean): boolean {
    const now = localNow()
    return now < entry.freshUntil || (now < entry.staleUntil && !background)
  }

  /** Takes an entry of Redis into memory and serves it. */
  #accept(call: Call, entry: Entry, ticket: Ticket): Outcome {
    const stale = localNow() >= entry.freshUntil
    this.#parts.admit(call.address, entry, ticket)
    this.#hit(call, 'redis', stale)
    // The refresh begins once this flight, which holds its place, is over.
    if (stale) setImmediate(() => this.#refresh(call)).unref()
    return { value: entry.value, shared: !ticket.spoilt && !isDead(entry) }
  }

  #backOff(entry: Entry, policy: EntryPolicy): void {
    entry.backoffUntil = localNow() + policy.backoff
  }

  #hit(call: Call, layer: 'memory' | 'redis', stale: boolean): void {
    if (channels.hit.active) {
      channels.hit.publish({ ns: call.space.name, key: call.address.key, layer, stale })
    }
  }
}
