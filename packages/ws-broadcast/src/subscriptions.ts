import type { FastifyBaseLogger } from 'fastify'
import type { ChannelRule } from './channel-rules.js'
import type { Connection } from './connection.js'
import type { Hub } from './hub.js'
import type { Hubs } from './hubs.js'
import { NO_INFO, type BroadcastConfig } from './options.js'
import { samePosition } from './position.js'
import type { Presence } from './presence.js'
import type { Member, Position } from './protocol.js'
import { Refusal } from './refusal.js'
import { SubscribeQueue } from './subscribe-queue.js'
import { Subscription } from './subscription.js'

export interface SubscriptionParts {
  readonly config: BroadcastConfig
  readonly hubs: Hubs
  readonly presence: Presence
  readonly log: FastifyBaseLogger
}

/** What the app says of a connection that enters a channel which keeps presence. */
export interface Introduction {
  /** What the others see of it. */
  readonly info: unknown
  /** Whether it sees the others. */
  readonly seesMembers: boolean
}

const UNASKED: Introduction = { info: undefined, seesMembers: true }

/** How a connection enters a channel. */
interface Entry {
  readonly since: Position | undefined
  /** Comes back in the answer. */
  readonly id?: number | string | undefined
  readonly introduction: Introduction | undefined
}

/** Puts connections into channels and takes them out. */
export class Subscriptions {
  /** Subscribes under way, so that a slow one does not undo what its client did meanwhile. */
  readonly #joining = new WeakMap<Connection, Map<string, Promise<void>>>()

  readonly #queue = new SubscribeQueue()

  constructor(private readonly parts: SubscriptionParts) {}

  /** How many milliseconds a client whose subscribe failed should wait. */
  get retryAfterMs(): number {
    return this.#queue.retryAfterMs
  }

  /**
   * Asks the app about a connection that is to enter; undefined where it has nothing to say. Asked before `add`: where it
   * fails, nothing has been entered and the subscribe may be tried again.
   */
  introduction(
    connection: Connection,
    channel: string,
    { presence }: ChannelRule
  ): (() => Promise<Introduction>) | undefined {
    const { authorize } = this.parts.config
    if (!presence || (presence === NO_INFO && !authorize)) return undefined
    const request = connection.request!
    return async () => {
      const [info, seesMembers] = await Promise.all([
        presence(request),
        authorize ? authorize(request, channel, 'presence') : true
      ])
      return { info: toPlain(info), seesMembers }
    }
  }

  /**
   * Subscribes, answers, and delivers what came after `since`. A second subscribe to the same channel starts
   * over at its own `since`.
   */
  async add(connection: Connection, channel: string, rule: ChannelRule, entry: Entry): Promise<void> {
    // Gone while the app was asked: Redis need not hear of it.
    if (!connection.open) return
    const joining = this.#joiningOf(connection)
    const { maxChannels } = this.parts.config
    const known = connection.subscriptions.has(channel) || joining.has(channel)
    if (!known && connection.subscriptions.size + joining.size >= maxChannels) {
      throw new Refusal('too_many_channels', `At most ${maxChannels} channels a connection`)
    }
    const current = (): boolean => connection.open && joining.get(channel) === turn
    const join = async (): Promise<void> => {
      await Promise.resolve()
      // It may have left again while it waited for its turn.
      if (current()) await this.#join(connection, channel, rule, entry, current)
    }
    // A channel that this instance listens to already costs Redis nothing, unless history must be read.
    const atHand = entry.since === undefined && this.parts.hubs.isReady(channel)
    const turn = (atHand ? join() : this.#queue.run(connection, join)).finally(() => {
      if (joining.get(channel) === turn) joining.delete(channel)
    })
    joining.set(channel, turn)
    await turn
  }

  /** The subscribe of the connection to the channel that is under way. */
  joining(connection: Connection, channel: string): Promise<void> | undefined {
    return this.#joining.get(connection)?.get(channel)
  }

  /** Settles once no subscribe of the connection to the channel is under way. */
  async settled(connection: Connection, channel: string): Promise<void> {
    await this.#joining
      .get(connection)
      ?.get(channel)
      ?.catch(() => undefined)
  }

  /** False if it was not in the channel, nor about to be. */
  end(connection: Connection, channel: string): boolean {
    const wasJoining = this.#joiningOf(connection).delete(channel)
    const subscription = connection.subscriptions.get(channel)
    if (!subscription) return wasJoining
    connection.subscriptions.delete(channel)
    this.#leave(subscription)
    return true
  }

  endAll(connection: Connection): void {
    this.#joining.delete(connection)
    for (const subscription of connection.subscriptions.values()) this.#leave(subscription)
    connection.subscriptions.clear()
  }

  async #join(
    connection: Connection,
    channel: string,
    rule: ChannelRule,
    entry: Entry,
    current: () => boolean
  ): Promise<void> {
    const hub = await this.parts.hubs.join(channel, rule).catch((error: unknown) => {
      this.#queue.failed()
      throw error
    })
    try {
      if (current()) await this.#enter(connection, hub, entry, current)
    } finally {
      hub.joining -= 1
      this.parts.hubs.left(hub)
    }
  }

  async #enter(
    connection: Connection,
    hub: Hub,
    { since, id, introduction = UNASKED }: Entry,
    current: () => boolean
  ): Promise<void> {
    const away = hub.rule.history && since && !samePosition(since, hub.position) ? since : undefined
    const recent = away && hub.recent.after(away)
    const page = away && !recent ? await hub.readFrom(away) : undefined
    if (!current()) return

    const previous = connection.subscriptions.get(hub.channel)
    if (previous) {
      previous.end()
      hub.subscriptions.delete(previous)
    }
    const subscription = new Subscription(connection, hub, introduction.seesMembers)
    connection.subscriptions.set(hub.channel, subscription)
    hub.subscriptions.add(subscription)

    const from = page?.from ?? away ?? hub.position
    const gap = page?.gap ?? (since && !hub.rule.history ? 'interrupted' : undefined)
    // Where it goes on in another epoch, the gap comes before the first message of that.
    const recovered = gap === undefined && !(away && hub.mayHaveLost(away, hub.position))
    connection.send({
      type: 'subscribed',
      ...(id !== undefined && { id }),
      channel: hub.channel,
      epoch: from.epoch,
      offset: from.offset,
      recovered
    })
    if (gap) subscription.gap(gap, from)
    if (away) subscription.resumeAt(from, recent ?? page?.messages ?? [])
    else subscription.state = 'live'
    if (hub.rule.presence && !previous) {
      await this.parts.presence.join(hub.channel, toMember(connection, introduction.info))
    }
  }

  #leave(subscription: Subscription): void {
    const { hub, connection } = subscription
    subscription.end()
    hub.subscriptions.delete(subscription)
    this.parts.hubs.left(hub)
    if (!hub.rule.presence) return
    this.parts.presence.leave(hub.channel, connection.id).catch((err: unknown) => {
      // The heartbeat writes the instance's members again after a failure.
      this.parts.log.warn({ err, channel: hub.channel }, 'a member could not be removed from presence')
    })
  }

  #joiningOf(connection: Connection): Map<string, Promise<void>> {
    let joining = this.#joining.get(connection)
    if (!joining) {
      joining = new Map()
      this.#joining.set(connection, joining)
    }
    return joining
  }
}

/** As the others will see it. What has no JSON fails the subscribe here; kept, it would fail all that is written or told later. */
function toPlain(info: unknown): unknown {
  const json = JSON.stringify(info) as string | undefined
  return json === undefined ? undefined : JSON.parse(json)
}

function toMember({ id, identity: { userId } }: Connection, info: unknown): Member {
  return { id, ...(userId !== undefined && { userId }), ...(info !== undefined && { info }) }
}
