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

/** Somebody came or went. */
export interface PresenceEvent {
  /** The channel. */
  readonly channel: string
  /** Which of the two. */
  readonly type: 'join' | 'leave'
  /** Who. */
  readonly member: Member
}

/** What `on` listens to, by name. */
export interface ClientEvents {
  /** A message of any channel. */
  message: MessageEvent
  /** Messages may be missing on a channel. */
  gap: GapEvent
  /** Somebody came to or left a channel that keeps presence. */
  presence: PresenceEvent
  /** `code` is the close code, where a connection ended. */
  state: { readonly state: ClientState; readonly code?: number }
  /** A subscribe that the server refused, or an error without an addressee. */
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
  addEventListener(type: 'close', listener: (event: { code: number }) => void): void
  /** The connection has failed; `close` follows. */
  addEventListener(type: 'error', listener: () => void): void
}

/** A WebSocket class. */
export type WebSocketConstructor = new (url: string, protocols?: string | string[]) => WebSocketLike

/** Options of {@link connect}. */
export interface ClientOptions {
  /** Default: the global one. Node 20 has none: pass that of `ws`. */
  WebSocket?: WebSocketConstructor
  /**
   * Delays between attempts in milliseconds: random between 0 and a bound that doubles from `min` to `max`, and starts
   * again at `min` once a connection has lasted until the server's first ping. Default 500 and 20,000.
   */
  reconnect?: { min?: number; max?: number }
  /** How long a call may wait for its answer, in milliseconds, connected or not. Default 10,000. */
  timeout?: number
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
  /** Ends it, unless a later `subscribe` to the channel has taken its place; nothing more is delivered. */
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

/** Where the message stands, on channels with history. */
export type PublishAck = Partial<Position>

/** One connection that comes back by itself, and the channels on it. */
export interface BroadcastClient {
  /** How the connection is. */
  readonly state: ClientState
  /** This connection's id, as presence shows it. */
  readonly connection: string | undefined
  /**
   * One subscription a channel: a later call takes the place of the one before, whose handler gets nothing more and whose
   * `unsubscribe` does nothing any more; with `since` it begins there. Survives reconnects. Of a closed client `ready` rejects.
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
