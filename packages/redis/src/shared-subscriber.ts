import { Deadline, TimeoutError } from '@flotilla/core'
import type { Cluster } from 'ioredis'
import { ANY_NODE, dedicatedConnection } from './dedicated-connection.js'
import { commandTimeoutOf, isCluster, type RedisClient } from './redis-client.js'
import { withoutArguments } from './reply-error.js'
import { slotOf } from './slots.js'
import { SubscriberLink, type GapReason } from './subscriber-link.js'
import type { LinkChannel } from './subscription-pump.js'

interface Entry extends LinkChannel {
  readonly handlers: Set<(message: Buffer) => void>
  link: SubscriberLink<Entry> | undefined
  live: boolean
  /** Why messages may have been missed since it was last live. */
  suspect: GapReason | undefined
  /** Callers that wait for it to be live. */
  waiting: { readonly resolve: () => void; readonly reject: (error: unknown) => void }[]
}

export interface Held {
  /**
   * Resolves when Redis has acknowledged the channel, and rejects with its answer if it has refused it.
   *
   * @param ms how long no channel at all may be acknowledged: of many that are asked for at once the last one waits longer
   * @throws TimeoutError
   */
  acknowledged(ms: number): Promise<void>
  release(): void
}

export interface WireGap {
  readonly reason: GapReason
  readonly recovered: boolean
  readonly wires: readonly string[]
}

const HEARTBEAT = 3_000
/** How often a caller waits on because others were acknowledged. */
const MAX_EXTENSIONS = 12
const REFRESH_PAUSE = 200

/**
 * The subscriptions of one client, counted, on as few connections as the topology allows: one, and on a Cluster
 * one more for each master that owns sharded channels. Routes those by slot, again after each change of the slot
 * map, and tells of gaps.
 */
export class SharedSubscriber {
  readonly #client: RedisClient
  readonly #cluster: Cluster | undefined
  readonly #entries = new Map<string, Entry>()
  readonly #links = new Map<string, SubscriberLink<Entry>>()
  readonly #gapHandlers = new Set<(gap: WireGap) => void>()
  #recovered: Entry[] = []
  /** Counts acknowledgements. */
  #progress = 0
  #refreshing: NodeJS.Timeout | undefined
  readonly #reroute = (): void => {
    for (const entry of this.#entries.values()) if (entry.sharded) this.#place(entry)
  }
  /** Of the last attempt to connect or to subscribe that failed. */
  lastError: unknown

  constructor(client: RedisClient) {
    this.#client = client
    this.#cluster = isCluster(client) ? client : undefined
  }

  hold(wire: string, sharded: boolean, handler: (message: Buffer) => void): Held {
    const id = idOf(wire, sharded)
    const entry = this.#entries.get(id) ?? this.#create(id, wire, sharded)
    // A handler given twice counts twice.
    const own = (message: Buffer): void => handler(message)
    entry.handlers.add(own)
    return {
      acknowledged: (ms) => this.#whenLive(entry, ms),
      release: () => {
        if (!entry.handlers.delete(own) || entry.handlers.size > 0) return
        this.#entries.delete(id)
        this.#detach(entry)
        if (this.#entries.size === 0) this.#stop()
      }
    }
  }

  async #whenLive(entry: Entry, ms: number): Promise<void> {
    if (entry.live) return
    let deadline: Deadline | undefined
    const live = new Promise<void>((resolve, reject) => {
      const wait = (extensions: number): void => {
        const progress = this.#progress
        deadline = new Deadline(ms, () => {
          if (this.#progress > progress && extensions > 0) return wait(extensions - 1)
          entry.waiting = entry.waiting.filter((one) => one.resolve !== resolve)
          reject(new TimeoutError(ms))
        })
      }
      wait(MAX_EXTENSIONS)
      entry.waiting.push({ resolve, reject })
    })
    try {
      await live
    } finally {
      deadline?.cancel()
    }
  }

  onGap(handler: (gap: WireGap) => void): () => void {
    const own = (gap: WireGap): void => handler(gap)
    this.#gapHandlers.add(own)
    return () => void this.#gapHandlers.delete(own)
  }

  isLive(wire: string, sharded: boolean): boolean {
    return this.#entries.get(idOf(wire, sharded))?.live === true
  }

  /** Replaces the connection that carries a channel. */
  restart(wire: string, sharded: boolean, reason: GapReason): void {
    this.#entries.get(idOf(wire, sharded))?.link?.restart(reason)
  }

  #create(id: string, wire: string, sharded: boolean): Entry {
    const entry: Entry = {
      wire,
      sharded,
      handlers: new Set(),
      link: undefined,
      live: false,
      suspect: undefined,
      waiting: []
    }
    if (this.#entries.size === 0) this.#cluster?.on('refresh', this.#reroute)
    this.#entries.set(id, entry)
    this.#place(entry)
    return entry
  }

  #stop(): void {
    this.#cluster?.off('refresh', this.#reroute)
    clearTimeout(this.#refreshing)
    this.#refreshing = undefined
    this.#recovered = []
  }

  /** Puts an entry on the link of the node that serves it, and subscribes it there unless it is. */
  #place(entry: Entry): void {
    const node = this.#nodeOf(entry)
    // The slot map is not known: the next refresh of it comes here again.
    if (node === undefined) return this.#refreshSoon()
    const link = this.#links.get(node) ?? this.#createLink(node)
    if (entry.link !== link) {
      this.#suspect([entry], 'slot-moved')
      this.#detach(entry)
      entry.link = link
    }
    this.#links.set(node, link)
    if (!entry.live) link.add(entry)
  }

  #detach(entry: Entry): void {
    const { link } = entry
    entry.link = undefined
    entry.live = false
    if (!link) return
    link.remove(entry)
    if (link.size > 0) return
    link.close()
    for (const [node, one] of this.#links) if (one === link) this.#links.delete(node)
  }

  #nodeOf(entry: Entry): string | undefined {
    if (!this.#cluster || !entry.sharded) return ANY_NODE
    return this.#cluster.slots[slotOf(entry.wire)]?.[0]
  }

  #createLink(node: string): SubscriberLink<Entry> {
    const on = (link: SubscriberLink<Entry>): Entry[] =>
      [...this.#entries.values()].filter((entry) => entry.link === link)
    const link: SubscriberLink<Entry> = new SubscriberLink<Entry>({
      create: () =>
        dedicatedConnection(this.#client, node, {
          connectionName: 'flotilla-subscriber',
          // The link has a clock of its own, which knows a blocked event loop.
          commandTimeout: undefined
        }),
      bySlot: this.#cluster !== undefined,
      heartbeat: HEARTBEAT,
      heartbeatTimeout: Math.max(1_000, commandTimeoutOf(this.#client)),
      listener: {
        message: (wire, sharded, message) => {
          const entry = this.#entries.get(idOf(wire, sharded))
          if (!entry) return
          // A message proves that a channel that was lost is back, before its acknowledgement was handed out.
          if (entry.suspect !== undefined && !entry.live && entry.link === link) this.#acknowledged([entry])
          if (this.#recovered.length > 0) this.#announceRecovered()
          for (const handler of entry.handlers) handler(message)
        },
        acknowledged: (entries) => this.#acknowledged(entries.filter((entry) => entry.link === link)),
        lost: (reason) => {
          this.#suspect(on(link), reason)
          this.#refreshSoon()
        },
        misplaced: (entries) => {
          const slots = new Set(entries.map(({ wire }) => slotOf(wire)))
          this.#suspect(
            on(link).filter(({ sharded, wire }) => sharded && slots.has(slotOf(wire))),
            'slot-moved'
          )
          this.#refreshSoon()
        },
        refused: (entry, error) => {
          this.lastError = withoutArguments(error)
          if (entry.link === link) for (const { reject } of entry.waiting.splice(0)) reject(this.lastError)
        },
        failed: (error) => {
          this.lastError = withoutArguments(error)
          this.#refreshSoon()
        }
      }
    })
    return link
  }

  #acknowledged(entries: Entry[]): void {
    for (const entry of entries) {
      if (!entry.live) this.#progress++
      entry.live = true
      for (const { resolve } of entry.waiting.splice(0)) resolve()
      if (entry.suspect === undefined) continue
      // One announcement for all that come back together.
      if (this.#recovered.length === 0) setImmediate(() => this.#announceRecovered())
      this.#recovered.push(entry)
    }
  }

  #announceRecovered(): void {
    const byReason = new Map<GapReason, string[]>()
    for (const entry of this.#recovered.splice(0)) {
      if (!entry.live || entry.suspect === undefined) continue
      const wires = byReason.get(entry.suspect)
      if (wires) wires.push(entry.wire)
      else byReason.set(entry.suspect, [entry.wire])
      entry.suspect = undefined
    }
    for (const [reason, wires] of byReason) this.#announce({ reason, recovered: true, wires })
  }

  #suspect(entries: Entry[], reason: GapReason): void {
    const lost = entries.filter((entry) => entry.live)
    for (const entry of lost) {
      entry.live = false
      entry.suspect ??= reason
    }
    if (lost.length > 0) this.#announce({ reason, recovered: false, wires: lost.map(({ wire }) => wire) })
  }

  #announce(gap: WireGap): void {
    for (const handler of this.#gapHandlers) handler(gap)
  }

  /** Asks for the slot map, at most a few times a second; its arrival routes the sharded channels again. */
  #refreshSoon(): void {
    const cluster = this.#cluster
    if (!cluster || this.#refreshing) return
    this.#refreshing = setTimeout(() => {
      this.#refreshing = undefined
      if (this.#entries.size > 0 && cluster.status === 'ready') cluster.refreshSlotsCache()
    }, REFRESH_PAUSE)
    this.#refreshing.unref()
  }
}

function idOf(wire: string, sharded: boolean): string {
  return `${sharded ? 's' : 'c'}:${wire}`
}
