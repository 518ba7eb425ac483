import type { Member, Position, ServerFrame } from '../protocol.js'
import { Channel, ChannelSubscription } from './channel.js'
import { BroadcastError } from './error.js'
import { Link, type Source } from './link.js'
import { PendingCommands, type Command, type CommandSettings } from './pending-commands.js'
import type {
  BroadcastClient,
  CallOptions,
  ClientEvents,
  ClientOptions,
  ClientState,
  MessageEvent,
  PublishAck,
  PublishOptions,
  SubscribeOptions,
  Subscription
} from './types.js'

/** How long a command waits for its answer unless the options say otherwise, in milliseconds. */
const TIMEOUT_MS = 10_000

/**
 * Opens a connection and keeps it. After a loss the client reconnects with jitter, subscribes again and resumes each channel where
 * it stood. Every message arrives once and in order, or a `gap` event says that some may be missing.
 *
 * @param url absolute, or relative to the page; or a function, which is called at each attempt, for a URL that carries a ticket
 */
export function connect(url: Source<string | URL>, options: ClientOptions = {}): BroadcastClient {
  return new Client(url, options)
}

/** The channels and commands of one {@link Link}. */
class Client implements BroadcastClient {
  #state: ClientState = 'connecting'
  #connection: string | undefined
  #idempotencyTtl = 0
  readonly #timeout: number
  readonly #channels = new Map<string, Channel>()
  readonly #listeners = new Map<string, Set<(event: never) => void>>()
  readonly #commands: PendingCommands
  readonly #link: Link

  constructor(url: Source<string | URL>, options: ClientOptions) {
    this.#timeout = options.timeout ?? TIMEOUT_MS
    this.#commands = new PendingCommands((frame) => this.#link.send(frame))
    this.#link = new Link(url, options, {
      onFrame: (frame) => this.#receive(frame),
      onLost: (code) => this.#onLost(code),
      onState: (state, code, reason) => this.#enter(state, code, reason),
      onClosed: (code, reason) => this.#onClosed(code, reason),
      onError: (error) => this.#emit('error', error)
    })
  }

  get state(): ClientState {
    return this.#state
  }

  get connection(): string | undefined {
    return this.#connection
  }

  subscribe<Data>(
    name: string,
    onMessage?: (message: MessageEvent<Data>) => void,
    { since }: SubscribeOptions = {}
  ): Subscription {
    const subscription = new ChannelSubscription(name, since, onMessage, (one) => this.#leave(one))
    if (this.#state === 'closed') {
      subscription.end(closedError())
      return subscription
    }
    const known = this.#channels.get(name)
    const channel = known ?? new Channel(since)
    this.#channels.set(name, channel)
    if (channel.add(subscription) || !known) this.#ask(name, channel)
    return subscription
  }

  async publish(
    channel: string,
    data: unknown,
    { idempotencyKey: key = randomKey() }: PublishOptions = {}
  ): Promise<PublishAck> {
    const { offset, epoch } = (await this.#run({ type: 'publish', channel, data, key })) as PublishAck
    return { ...(offset !== undefined && { offset }), ...(epoch !== undefined && { epoch }) }
  }

  async call<Result>(
    name: string,
    data?: unknown,
    { timeout = this.#timeout, signal, idempotent = false }: CallOptions = {}
  ): Promise<Result> {
    const answer = await this.#run(
      { type: 'call', name, data },
      { timeout, signal, isRepeatable: idempotent }
    )
    return (answer as { data: unknown }).data as Result
  }

  async presence(channel: string): Promise<Member[]> {
    const frame = await this.#run({ type: 'presence', channel })
    return frame.type === 'presence' ? frame.members : []
  }

  on<Event extends keyof ClientEvents>(
    event: Event,
    listener: (event: ClientEvents[Event]) => void
  ): () => void {
    const set = this.#listeners.get(event) ?? new Set()
    this.#listeners.set(event, set)
    // Given twice it counts twice.
    const own = (value: never): void => listener(value)
    set.add(own)
    return () => set.delete(own)
  }

  close(): void {
    this.#link.close(1000)
  }

  async #run(frame: Command, settings: CommandSettings = { timeout: this.#timeout }): Promise<ServerFrame> {
    if (this.#state === 'closed') throw closedError()
    return this.#commands.run(frame, settings)
  }

  /** Subscribes from where the channel stands; without a connection the next one does. */
  #ask(name: string, channel: Channel): void {
    const { position: since } = channel
    channel.asked = this.#commands.nextId()
    channel.isLive = false
    this.#send({ type: 'subscribe', id: channel.asked, channel: name, ...(since && { since }) })
  }

  #leave(subscription: ChannelSubscription): void {
    const { channel: name } = subscription
    const channel = this.#channels.get(name)
    if (!channel?.subscriptions.delete(subscription) || channel.subscriptions.size > 0) return
    clearTimeout(channel.retry)
    this.#channels.delete(name)
    this.#send({ type: 'unsubscribe', channel: name })
  }

  #receive(frame: ServerFrame): void {
    switch (frame.type) {
      case 'welcome':
        this.#connection = frame.connection
        this.#idempotencyTtl = frame.idempotencyTtl
        for (const [name, channel] of this.#channels) this.#ask(name, channel)
        this.#commands.sendAll()
        // Last: what a listener asks for is sent when it does.
        this.#enter('open')
        break
      case 'message': {
        const channel = this.#channels.get(frame.channel)
        if (!channel?.isLive) break
        const event = channel.deliver(frame, this.#idempotencyTtl, notify)
        if (event) this.#emit('message', event)
        break
      }
      case 'subscribed': {
        let channel = this.#channels.get(frame.channel)
        if (!channel && frame.id === undefined) {
          // The server subscribed this connection: for the `message` event.
          channel = new Channel(undefined)
          this.#channels.set(frame.channel, channel)
          channel.begin(frame)
        } else if (channel?.asked === frame.id) channel?.begin(frame)
        break
      }
      case 'unsubscribed': {
        const channel = this.#channels.get(frame.channel)
        // One that has been asked for again gets an answer of its own.
        if (!frame.byServer || !channel?.isLive) break
        this.#channels.delete(frame.channel)
        const error = new BroadcastError('unsubscribed', 'The server ended the subscription', frame.channel)
        channel.end(error)
        if (channel.subscriptions.size > 0) this.#emit('error', error)
        break
      }
      case 'gap': {
        const channel = this.#channels.get(frame.channel)
        if (!channel?.isLive) break
        channel.skip(frame.reason, frame)
        this.#emit('gap', { channel: frame.channel, reason: frame.reason })
        break
      }
      case 'join':
      case 'leave':
        this.#emit('presence', { channel: frame.channel, type: frame.type, member: frame.member })
        break
      case 'error':
        this.#onError(frame)
        break
      default:
        this.#commands.resolve((frame as { id?: unknown }).id, frame)
    }
  }

  #onError(frame: Extract<ServerFrame, { type: 'error' }>): void {
    const error = new BroadcastError(frame.code, frame.message, frame.channel, frame.retryAfter)
    if (frame.id !== undefined) {
      if (this.#commands.reject(frame.id, error)) return
      const asked = [...this.#channels].find(([, channel]) => channel.asked === frame.id)
      // The subscription has ended meanwhile.
      if (!asked) return
      const [name, channel] = asked
      if (frame.code === 'unavailable') {
        this.#askLater(name, channel, frame.retryAfter)
        return
      }
      if (channel.refuse(error)) this.#ask(name, channel)
      else this.#channels.delete(name)
    }
    this.#emit('error', error)
  }

  /** The server could not reach Redis just now. */
  #askLater(name: string, channel: Channel, retryAfter = 0): void {
    const { asked } = channel
    channel.retry = setTimeout(
      () => {
        if (this.#channels.get(name) === channel && channel.asked === asked) this.#ask(name, channel)
      },
      retryAfter + (0.5 + Math.random() / 2) * this.#link.backOff(channel.failures++)
    )
  }

  #onLost(code: number): void {
    this.#connection = undefined
    // What was too large would be too large again.
    if (code === 1009) {
      this.#commands.rejectAll(
        new BroadcastError('too_large', 'The server does not take messages of this size')
      )
    }
    this.#commands.interrupt()
    for (const [name, channel] of this.#channels) {
      channel.isLive = false
      // The server put this connection there, and only this one.
      if (channel.subscriptions.size === 0) this.#channels.delete(name)
    }
  }

  #onClosed(code: number, reason?: string): void {
    this.#connection = undefined
    const error = closedError(code, reason)
    this.#commands.rejectAll(error)
    for (const channel of this.#channels.values()) channel.end(error)
    this.#channels.clear()
  }

  #enter(state: ClientState, code?: number, reason?: string): void {
    this.#state = state
    this.#emit('state', { state, ...(code !== undefined && { code }), ...(reason && { reason }) })
  }

  #send(frame: { type: string; channel: string; id?: number; since?: Position }): void {
    this.#link.send(JSON.stringify(frame))
  }

  #emit<Event extends keyof ClientEvents>(event: Event, value: ClientEvents[Event]): void {
    for (const listener of this.#listeners.get(event) ?? []) notify(listener, value as never)
  }
}

/** What a listener throws is reported as any uncaught error, and keeps nothing from the others. */
function notify<Value>(listener: (value: Value) => void, value: Value): void {
  try {
    listener(value)
  } catch (error) {
    queueMicrotask(() => {
      throw error
    })
  }
}

function closedError(code?: number, reason?: string): BroadcastError {
  const detail = [code, reason].filter(Boolean).join(': ')
  return new BroadcastError('closed', `The connection is closed${detail && ` (${detail})`}`)
}

function randomKey(): string {
  return `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`
}
