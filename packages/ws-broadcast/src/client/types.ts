import type { BroadcastError } from './error.js'
import type { GapReason, Member, Position, Sender } from '../protocol.js'

/**
 * `connecting`: the first time or again; `open`; `closed`: by `close()`, or by the server for good (logged out,
 * disconnected, not this protocol).
 */
export type ClientState = 'connecting' | 'open' | 'closed'

/** A message of a channel. */
export interface MessageEvent<Data = unknown> {
  /** The channel it came on. */
  readonly channel: string
  /** What was published. */
  readonly data: Data
  /** The client that published it, if one did; set by the server. */
  readonly from?: Sender
  /** Carried through from `publish({ consistency })`. */
  readonly token?: string
  /** Absent on channels without history. */
  readonly position?: Position
}

/** Messages may be missing between the last one and the next: fetch the state anew. */
export interface GapEvent {
  /** The channel. */
  readonly channel: string
  /** Why messages may be missing. */
  readonly reason: GapReason
}

/** A member came or went. */
export interface PresenceEvent {
  /** The channel. */
  readonly channel: string
  /** Which of the two. */
  readonly type: 'join' | 'leave'
  /** The member. */
  readonly member: Member
}

/** What `on` listens to, by name. */
export interface ClientEvents {
  /** A message of any channel. */
  message: MessageEvent
  /** Messages may be missing on a channel. */
  gap: GapEvent
  /** A member came to or left a channel that keeps presence. */
  presence: PresenceEvent
  /** `code` and `reason` are those of the connection that ended. `closed` with 4401: log in, then `connect` again. */
  state: { readonly state: ClientState; readonly code?: number; readonly reason?: string }
  /** A subscribe that the server refused, an error that answers no command, or `connect`: the URL could not be found out. */
  error: BroadcastError
}

/** The part of the WebSocket API that the client uses; browsers, Node ≥ 22 and `ws` have it. */
export interface WebSocketLike {
  /** Sends one text frame. */
  send(data: string): void
  /** Closes it. */
  close(code?: number, reason?: string): void
  /** A frame has come. */
  addEventListener(type: 'message', listener: (event: { data: unknown }) => void): void
  /** The connection has ended. */
  addEventListener(type: 'close', listener: (event: { code: number; reason?: string }) => void): void
  /** The connection has failed; `close` follows. */
  addEventListener(type: 'error', listener: () => void): void
}

/** A WebSocket class. */
export type WebSocketConstructor = new (url: string, protocols?: string | string[]) => WebSocketLike

/** Subprotocols, as the WebSocket class takes them. */
export type Protocols = string | string[] | undefined

/** Options of {@link connect}. */
export interface ClientOptions {
  /** Default: the global one. Node 20 has none: pass that of `ws`. */
  WebSocket?: WebSocketConstructor
  /**
   * Delays between attempts in milliseconds: random between 0 and a bound that doubles from `min` to `max`, and starts
   * again at `min` once a connection has lasted until the server's first ping. Default 500 and 20,000.
   */
  reconnect?: { min?: number; max?: number }
  /** How long a command may wait for its answer, in milliseconds, connected or not. Default 10,000. */
  timeout?: number
  /** How long an attempt may take until the server's welcome, in milliseconds. Default 10,000. */
  connectTimeout?: number
  /** Subprotocols, or a function that is asked for them at each attempt. Default: none. */
  protocols?: Protocols | (() => Protocols | Promise<Protocols>)
}

/** Where a subscription begins. */
export interface SubscribeOptions {
  /** Go on from here, e.g. from a position that the page was rendered with. Default: only what comes. */
  since?: Position
}

/** One channel of a client. */
export interface Subscription {
  /** Its name. */
  readonly channel: string
  /** Where this client stands; store it to go on from it later. */
  readonly position: Position | undefined
  /** Resolves once the server has confirmed the subscription; rejects with a `BroadcastError` where that cannot come. */
  readonly ready: Promise<void>
  /** Ends this subscription: its handler gets nothing more. The channel is left when no other subscription to it remains. */
  unsubscribe(): void
}

/** How one message is published. */
export interface PublishOptions {
  /**
   * 1 to 128 characters. The same key of the same user, or of all who have no user id, publishes once within the server's
   * `idempotencyTtl`: repeat a call that failed with `timeout`, `closed` or `unavailable` under the key it had. Default: a
   * random one for each call.
   */
  idempotencyKey?: string
}

/** How one call is made. */
export interface CallOptions {
  /** How long the answer may take, in milliseconds, connected or not. Default: the client's `timeout`. */
  timeout?: number
  /** Gives up; `call` then rejects with the signal's reason. The server's handler sees it too. */
  signal?: AbortSignal
  /**
   * The server may answer this call twice without harm: it is repeated over the next connection. Default `false`: once it was
   * sent, the end of the connection rejects it with `interrupted`.
   */
  idempotent?: boolean
}

/** Where the message stands, on channels with history. */
export type PublishAck = Partial<Position>

/** One connection that comes back by itself, and the channels on it. */
export interface BroadcastClient {
  /** How the connection is. */
  readonly state: ClientState
  /** This connection's id, as presence shows it. */
  readonly connection: string | undefined
  /**
   * Each subscription has a handler and a position of its own; those of one channel share what comes over the wire. It
   * survives reconnects. With `since` it begins there, and disturbs no other. While the channel catches up for another
   * subscription, one made meanwhile may get messages from before it. Of a closed client `ready` rejects.
   */
  subscribe<Data = unknown>(
    channel: string,
    onMessage?: (message: MessageEvent<Data>) => void,
    options?: SubscribeOptions
  ): Subscription
  /**
   * Sent once even if the connection breaks in between: it is repeated under the same key after a reconnect that comes
   * within `timeout`. Where it fails with `timeout`, `closed` or `unavailable` the message may have been published.
   *
   * @throws BroadcastError with the server's code, or `closed`, `timeout`, `unserialisable`
   */
  publish(channel: string, data: unknown, options?: PublishOptions): Promise<PublishAck>
  /**
   * Asks the server's `onCall` handler of this name.
   *
   * @throws BroadcastError with the server's code (`unknown_call`, `invalid_data`, `internal` or one of the app's own), or `closed`,
   * `timeout`, `interrupted`, `unserialisable`; the reason of the signal
   */
  call<Result = unknown>(name: string, data?: unknown, options?: CallOptions): Promise<Result>
  /** Who is in the channel now. Fails as `publish` does. */
  presence(channel: string): Promise<Member[]>
  /** Listens to one kind of event on all channels. Returns the function that ends it. */
  on<Event extends keyof ClientEvents>(
    event: Event,
    listener: (event: ClientEvents[Event]) => void
  ): () => void
  /** Ends the connection for good. */
  close(): void
}
