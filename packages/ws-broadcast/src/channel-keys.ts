/**
 * The Redis names of one channel. All share the channel as hash tag, so that a script may use them together
 * on Cluster and the sharded pub/sub channel lives on the same node.
 */
export class ChannelKeys {
  /** @param clientPrefix what the client itself puts before keys and subscriptions, but not before arguments */
  constructor(
    readonly prefix: string,
    private readonly clientPrefix: string
  ) {}

  /** The pub/sub channel as a script publishes to it. */
  wire(channel: string): string {
    return this.clientPrefix + this.pubsub(channel)
  }

  /** The pub/sub channel as one subscribes to it. */
  pubsub(channel: string): string {
    return `${this.prefix}{${channel}}`
  }

  /** The channel of a {@link pubsub} name. */
  channelOf(pubsub: string): string {
    return pubsub.slice(this.prefix.length + 1, -1)
  }

  meta(channel: string): string {
    return `${this.prefix}{${channel}}:meta`
  }

  history(channel: string): string {
    return `${this.prefix}{${channel}}:log`
  }

  once(channel: string, idempotencyKey: string): string {
    return `${this.prefix}{${channel}}:once:${idempotencyKey}`
  }

  /** Set of the instances with members. */
  presence(channel: string): string {
    return `${this.prefix}{${channel}}:in`
  }

  /** Hash of one instance's members. */
  members(channel: string, instance: string): string {
    return `${this.prefix}{${channel}}:in:${instance}`
  }

  /** Sorted set of the instances' leases. */
  get instances(): string {
    return `${this.prefix}instances`
  }

  /** Set of the channels where an instance has members. */
  channelsOf(instance: string): string {
    return `${this.prefix}{${instance}}:channels`
  }
}
