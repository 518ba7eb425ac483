import type { ConsistencyToken } from '@flotilla/core'
import type { FastifyBaseLogger } from 'fastify'
import { localNow, type RedisTime } from './clock.js'
import type { Entry, Lifetime } from './entry.js'
import { ClosedError } from './errors.js'
import { Context, runBounded, type Cancel, type Factory } from './factory.js'
import type { Flight, Flights, Outcome } from './flight.js'
import type { KeyNames } from './keys.js'
import type { Mark, Marks } from './marks.js'
import type { Memory } from './memory.js'
import type { EntryPolicy } from './options.js'
import { isDead, newEntry, type Coded, type EntryReader, type Space } from './reader.js'
import type { Address, Remote } from './remote.js'
import { channels, type FillOutcome } from './telemetry.js'
import type { Ticket } from './tickets.js'
import { newVersion } from './wire.js'

export interface FillParts {
  memory: Memory | undefined
  marks: Marks
  names: KeyNames
  remote: Remote | undefined
  reader: EntryReader
  time: RedisTime
  log: FastifyBaseLogger
  settings: {
    lease: number
    maxTtl: number
    tokenWindow: number
    covers: (have: string, need: string) => boolean
  }
}

export interface FillTask {
  readonly space: Space
  readonly address: Address
  readonly factory: Factory<unknown>
  readonly policy: EntryPolicy
  readonly tags: readonly string[]
  readonly flight: Flight
  readonly ticket: Ticket
  readonly background: boolean
  /** Absent without Redis, or while it is away: the value is then kept in memory alone. */
  readonly lease: { token: string; began: number } | undefined
  /** An old value to fall back on within its grace. */
  readonly grace: Entry | undefined
  /** The marks of generations and of `tags`, in this order; held by the caller. */
  readonly depends: readonly Mark[]
}

/** What a factory brought and what it depends on. */
interface Made {
  readonly value: unknown
  readonly context: Context
  readonly computeMs: number
}

/** Runs a factory and stores its value, unless an invalidation came after it began: that always wins. */
export class Fill {
  readonly #parts: FillParts
  readonly #flights: Flights
  readonly #underWay = new Set<Cancel>()

  constructor(parts: FillParts, flights: Flights) {
    this.#parts = parts
    this.#flights = flights
  }

  /** Aborts every factory under way: the app closes. */
  abortAll(): void {
    for (const cancel of this.#underWay) cancel(new ClosedError())
  }

  async run(task: FillTask): Promise<Outcome> {
    const claims = new Claims(this.#parts, task)
    const keepAlive = this.#keepLease(task)
    const began = performance.now()
    let outcome: FillOutcome = 'failed'
    try {
      const made = await this.#make(task, claims)
      outcome = await this.#store(task, made, claims)
      return {
        value: claims.result === undefined ? made.value : claims.result.value,
        shared: outcome !== 'refused' && !task.ticket.spoilt && !made.context.abandoned && claims.stand()
      }
    } catch (error) {
      return await this.#failed(task, error, claims)
    } finally {
      clearInterval(keepAlive)
      claims.release()
      if (channels.fill.active) {
        channels.fill.publish({
          ns: task.space.name,
          key: task.address.key,
          outcome,
          durationMs: performance.now() - began,
          background: task.background
        })
      }
    }
  }

  async #make(task: FillTask, claims: Claims): Promise<Made> {
    let controller: AbortController | undefined
    const abort = (): AbortController => (controller ??= new AbortController())
    const context = new Context({
      key: task.address.key,
      stale: task.grace?.value,
      staleTags: task.grace?.tags ?? [],
      background: task.background,
      abort,
      addTags: (tags) => claims.add(tags),
      after: () => claims.after(context),
      maxTtl: task.policy.maxTtl
    })
    const began = performance.now()
    const value: unknown = await this.#flights.run(task.flight, () =>
      runBounded(task.address.key, task.policy.timeout, abort, this.#underWay, () => task.factory(context))
    )
    return { value, context, computeMs: performance.now() - began }
  }

  async #store(task: FillTask, { value, context, computeMs }: Made, claims: Claims): Promise<FillOutcome> {
    const { memory, remote, reader } = this.#parts
    const { address, lease, space, ticket } = task
    const life = lifetime(task.policy, value, context, computeMs, this.#parts.settings.maxTtl)
    if (value === undefined || context.skipped) {
      await this.#release(task)
      return 'skipped'
    }
    const coded = reader.code(space, address.key, value)
    claims.result = coded
    if (!life) {
      await this.#release(task)
      return 'skipped'
    }
    if (!(await claims.settle()) || !claims.consistent(context)) {
      await this.#release(task)
      return 'refused'
    }
    const keep = (version: string): void => {
      if (!memory || ticket.spoilt || !claims.stand()) return
      const own = claims.take()
      const entry = newEntry(space, address, coded.value, version, life, own, claims.stamps, claims.tags)
      entry.epoch = ticket.epoch
      memory.put(address, entry)
    }
    if (!remote || !lease) {
      keep(newVersion())
      return ticket.spoilt || !claims.stand() ? 'refused' : 'memory'
    }
    const { tags, stamps } = claims
    const { bytes, version } = await reader.pack(space, coded, { life, tags, stamps })
    const kept = Math.max(life.freshUntil, life.staleUntil, life.graceUntil) - localNow()
    try {
      const end = await remote.fill(
        address,
        lease.token,
        bytes,
        Math.max(1, kept),
        claims.marks,
        claims.stamps
      )
      if (end !== 'stored') return 'refused'
    } catch {
      // Whether it landed is unknown; nothing that came after it can be undone by it.
      keep(version)
      return 'memory'
    }
    keep(version)
    return 'stored'
  }

  async #failed(task: FillTask, error: unknown, claims: Claims): Promise<Outcome> {
    const { grace, policy } = task
    // For how long the old value may still be served: within its grace to those who wait, within swr to others.
    const left = (entry: Entry): number =>
      task.ticket.spoilt || isDead(entry) ? 0 : Math.max(entry.staleUntil, entry.graceUntil) - localNow()
    await this.#release(task, grace ? Math.max(0, Math.min(policy.backoff, left(grace))) : 0)
    if (!grace || left(grace) <= 0) throw error
    grace.backoffUntil = localNow() + policy.backoff
    const { memory } = this.#parts
    if (memory && memory.peek(task.address) !== grace && grace.marks.every((mark) => mark.refs > 0)) {
      for (const mark of grace.marks) this.#parts.marks.hold(mark.name)
      memory.put(task.address, grace)
    }
    if (!task.background && localNow() >= grace.graceUntil) throw error
    this.#parts.log.warn({ err: error, key: task.address.key }, 'the factory failed; the old value is served')
    return { value: grace.value, shared: claims.stand() }
  }

  async #release(task: FillTask, coolMs = 0): Promise<void> {
    if (!task.lease) return
    await this.#parts.remote?.release(task.address, task.lease.token, coolMs).catch(() => undefined)
  }

  /** Shows the fleet that the factory is still at work. */
  #keepLease({ address, lease }: FillTask): NodeJS.Timeout | undefined {
    const { remote, settings } = this.#parts
    if (!lease || !remote) return undefined
    const timer = setInterval(() => {
      remote.extend(address, lease.token).then(
        (ours) => ours || clearInterval(timer),
        () => undefined
      )
    }, settings.lease / 3)
    return timer.unref()
  }
}

/** The tags and generations that one fill depends on, and up to where its value contains their changes. */
class Claims {
  /** The value as all processes read it; none if the factory skipped storing it. */
  result: Coded | undefined
  readonly tags: string[]
  readonly marks: Mark[]
  readonly stamps: number[]
  readonly #parts: FillParts
  readonly #began: number
  /** The {@link Marks.heard} at its beginning. */
  readonly #heard: number
  readonly #own: Mark[] = []
  readonly #asked: Promise<unknown>[] = []
  #taken = false

  constructor(parts: FillParts, task: FillTask) {
    this.#parts = parts
    this.tags = [...task.tags]
    this.#heard = parts.marks.heard
    this.marks = [...task.depends]
    // Asked before the factory began: exact, whatever any clock says.
    this.stamps = task.depends.map((mark) => mark.value)
    for (const mark of task.depends) this.#own.push(parts.marks.hold(mark.name))
    this.#began = task.lease
      ? task.lease.began - (parts.remote?.skew ?? 0)
      : parts.remote
        ? parts.time.toRedis(localNow()) * 1000
        : parts.marks.now
  }

  /** Tags named by the factory: their marks are asked while it runs, and compared with when it began. */
  add(tags: readonly string[]): void {
    for (const tag of tags) {
      if (this.tags.includes(tag)) continue
      const mark = this.#parts.marks.hold(this.#parts.names.tag(tag))
      this.#own.push(mark)
      this.tags.push(tag)
      this.marks.push(mark)
      this.stamps.push(-1)
      if (mark.known || !this.#parts.remote) continue
      const asked = this.#parts.remote.learn([mark])
      asked.catch(() => undefined)
      this.#asked.push(asked)
    }
  }

  /** Stamps the tags that the factory named; false where one was invalidated since it began, or cannot be told. */
  async settle(): Promise<boolean> {
    try {
      await Promise.all(this.#asked)
    } catch {
      return false
    }
    for (let i = 0; i < this.stamps.length; i++) {
      if (this.#stamped(i)) continue
      const mark = this.marks[i]!
      if (this.#moved(mark)) return false
      this.stamps[i] = mark.value
    }
    return true
  }

  /** Whether no mark has moved since, as far as this process knows. */
  stand(): boolean {
    return this.marks.every((mark, i) =>
      this.#stamped(i) ? mark.value <= this.stamps[i]! : !this.#moved(mark)
    )
  }

  after(context: Context): ConsistencyToken | undefined {
    let latest: Mark | undefined
    for (const mark of this.#demanding()) if (!latest || mark.value > latest.value) latest = mark
    if (latest) context.said.push(latest.after!)
    return latest?.after
  }

  /** Whether what the factory read contains the writes that recent invalidations were about. */
  consistent({ said }: Context): boolean {
    const { covers } = this.#parts.settings
    return this.#demanding().every((mark) => said.some((have) => covers(have, mark.after!)))
  }

  /** Hands the hold on the marks to an entry. */
  take(): readonly Mark[] {
    this.#taken = true
    return this.#own
  }

  release(): void {
    if (!this.#taken) for (const mark of this.#own) this.#parts.marks.release(mark)
  }

  /** Whether the mark of a tag that the factory named has moved since the factory began. */
  #moved(mark: Mark): boolean {
    // One that this process had to create is younger than the factory, though nothing was invalidated.
    return mark.heard > this.#heard || (mark.value > this.#began && mark.value !== mark.created)
  }

  /** Not yet where the factory named the tag: then it is compared with when that began. */
  #stamped(i: number): boolean {
    return this.stamps[i]! >= 0
  }

  #demanding(): Mark[] {
    const { remote, time, settings } = this.#parts
    if (!remote) return this.marks.filter((mark) => mark.after !== undefined)
    const since = (time.toRedis(localNow()) - settings.tokenWindow) * 1000
    return this.marks.filter((mark) => mark.after !== undefined && mark.value > since)
  }
}

/** When the entry expires; `undefined` where it is not to be stored. */
export function lifetime(
  policy: EntryPolicy,
  value: unknown,
  context: { ttlMs: number | undefined; swrMs?: number | undefined; graceMs?: number | undefined },
  computeMs: number,
  maxTtl: number
): Lifetime | undefined {
  const chosen = context.ttlMs ?? (value === null ? (policy.negativeTtl ?? policy.ttl) : policy.ttl)
  const ttl = Math.min(chosen, maxTtl) * (1 - policy.jitter * Math.random())
  if (ttl <= 0) return undefined
  const now = localNow()
  const latest = now + maxTtl
  const freshUntil = now + ttl
  return {
    createdAt: now,
    freshUntil,
    staleUntil: Math.min(freshUntil + (context.swrMs ?? policy.swr), latest),
    graceUntil: Math.min(freshUntil + (context.graceMs ?? policy.grace), latest),
    computeMs
  }
}
