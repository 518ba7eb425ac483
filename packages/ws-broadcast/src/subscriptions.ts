import type { FastifyBaseLogger } from 'fastify'
import type { ChannelRule } from './channel-rules.js'
import { Refusal } from './commands.js'
import type { Connection } from './connection.js'
import type { Hub } from './hub.js'
import type { Hubs } from './hubs.js'
import type { BroadcastConfig } from './options.js'
import { samePosition } from './position.js'
import type { Presence } from './presence.js'
import type { Member, Position } from './protocol.js'
import { Subscription } from './subscription.js'

export interface SubscriptionParts {
  readonly config: BroadcastConfig
  readonly hubs: Hubs
  readonly presence: Presence
  readonly log: FastifyBaseLogger
}

/** How a connection enters a channel. */
interface Entry {
  readonly since: Position | undefined
  readonly id: number | string | undefined
  /** As the others are to see it; undefined where they do already, or never will. */
  readonly member: Member | undefined
}

/** Puts connections into channels and takes them out. */
export class Subscriptions {
  /** Subscribes under way, so that a slow one does not undo what its client did meanwhile. */
  readonly #joining = new WeakMap<Connection, Map<string, symbol>>()

  constructor(private readonly parts: SubscriptionParts) {}

  /**
   * Subscribes, answers, and delivers what came after `since`. A second subscribe to the same channel starts
   * over at its own `since`.
   */
  async add(
    connection: Connection,
    channel: string,
    rule: ChannelRule,
    since: Position | undefined,
    id: number | string | undefined
  ): Promise<void> {
    const joining = this.#joiningOf(connection)
    const { maxChannels } = this.parts.config
    const known = connection.subscriptions.has(channel) || joining.has(channel)
    if (!known && connection.subscriptions.size + joining.size >= maxChannels) {
      throw new Refusal('too_many_channels', `At most ${maxChannels} channels a connection`)
    }
    const turn = Symbol(channel)
    joining.set(channel, turn)
    const current = (): boolean => connection.open && joining.get(channel) === turn
    try {
      // Before anything is entered: where the app's function fails, so does the subscribe, and may be tried again.
      const arrives = rule.presence && !connection.subscriptions.has(channel)
      const member = arrives ? await describe(connection, rule.presence) : undefined
      const hub = await this.parts.hubs.join(channel, rule)
      try {
        if (current()) await this.#enter(connection, hub, { since, id, member }, current)
      } finally {
        hub.joining -= 1
        this.parts.hubs.left(hub)
      }
    } finally {
      if (joining.get(channel) === turn) joining.delete(channel)
    }
  }

  end(connection: Connection, channel: string): void {
    this.#joiningOf(connection).delete(channel)
    const subscription = connection.subscriptions.get(channel)
    if (!subscription) return
    connection.subscriptions.delete(channel)
    this.#leave(subscription)
  }

  endAll(connection: Connection): void {
    this.#joining.delete(connection)
    for (const subscription of connection.subscriptions.values()) this.#leave(subscription)
    connection.subscriptions.clear()
  }

  async #enter(
    connection: Connection,
    hub: Hub,
    { since, id, member }: Entry,
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
    const subscription = new Subscription(connection, hub)
    connection.subscriptions.set(hub.channel, subscription)
    hub.subscriptions.add(subscription)

    const from = page?.from ?? away ?? hub.position
    const gap = page?.gap ?? (since && !hub.rule.history ? 'interrupted' : undefined)
    connection.send({
      type: 'subscribed',
      ...(id !== undefined && { id }),
      channel: hub.channel,
      epoch: from.epoch,
      offset: from.offset,
      recovered: gap === undefined
    })
    if (gap) subscription.gap(gap, from)
    if (away) subscription.resumeAt(from, recent ?? page?.messages ?? [])
    else subscription.state = 'live'
    if (member) await this.parts.presence.join(hub.channel, member)
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

  #joiningOf(connection: Connection): Map<string, symbol> {
    let joining = this.#joining.get(connection)
    if (!joining) {
      joining = new Map()
      this.#joining.set(connection, joining)
    }
    return joining
  }
}

/** A connection as the others in a channel see it. */
async function describe(
  connection: Connection,
  presence: NonNullable<ChannelRule['presence']>
): Promise<Member> {
  const info = await presence(connection.request!)
  const { userId } = connection.identity
  return {
    id: connection.id,
    ...(userId !== undefined && { userId }),
    ...(info !== undefined && { info })
  }
}
