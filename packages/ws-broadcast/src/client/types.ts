import type { GapReason, Member, Position } from '../protocol.js'

/**
 * `connecting`: the first time or again; `open`; `closed`: by `close()`, or by the server for good (logged out,
 * disconnected, not this protocol).
 */
export type ClientState = 'connecting' | 'open' | 'closed'

export interface MessageEvent<Data = unknown> {
  readonly channel: string
  readonly data: Data
  /** Carried through from `publish({ consistency })`. */
  readonly token?: string
  /** Absent on channels without history. */
  readonly position?: Position
}

/** Messages may be missing between the last one and the next: fetch the state anew. */
export interface GapEvent {
  readonly channel: string
  readonly reason: GapReason
}

export interface PresenceEvent {
  readonly channel: string
  readonly type: 'join' | 'leave'
  readonly member: Member
}

export interface ClientEvents {
  message: MessageEvent
  gap: GapEvent
  presence: PresenceEvent
  /** `code` is the close code, where a connection ended. */
  state: { readonly state: ClientState; readonly code?: number }
  /** A subscribe that the server refused, or an error without an addressee. */
  error: Error & { readonly code: string; readonly channel?: string }
}

/** The part of the WebSocket API that the client uses; browsers, Node ≥ 22 and `ws` have it. */
export interface WebSocketLike {
  send(data: string): void
  close(code?: number, reason?: string): void
  addEventListener(type: 'message', listener: (event: { data: unknown }) => void): void
  addEventListener(type: 'close', listener: (event: { code: number }) => void): void
  addEventListener(type: 'error', listener: () => void): void
}

export type WebSocketConstructor = new (url: string, protocols?: string | string[]) => WebSocketLike

export interface ClientOptions {
  /** Default: the global one. Node 20 has none: pass that of `ws`. */
  WebSocket?: WebSocketConstructor
  /** Delays between attempts in milliseconds: random between 0 and a bound that doubles from `min` to `max`. Default 500 and 20,000. */
  reconnect?: { min?: number; max?: number }
  /** How long an answer may take, in milliseconds, while connected. Default 10,000. */
  timeout?: number
}

export interface SubscribeOptions {
  /** Go on from here, e.g. from a position that the page was rendered with. Default: only what comes. */
  since?: Position
}

export interface Subscription {
  readonly channel: string
  /** Where this client stands; store it to go on from it later. */
  readonly position: Position | undefined
  /** Resolves once the server has confirmed the subscription; rejects with a `BroadcastError` where that cannot come. */
  readonly ready: Promise<void>
  unsubscribe(): void
}

export type PublishAck = Partial<Position>

export interface BroadcastClient {
  readonly state: ClientState
  /** This connection's id, as presence shows it. */
  readonly connection: string | undefined
  /** One subscription a channel: a second call replaces the handler. Survives reconnects. Of a closed client `ready` rejects. */
  subscribe<Data = unknown>(
    channel: string,
    onMessage?: (message: MessageEvent<Data>) => void,
    options?: SubscribeOptions
  ): Subscription
  /**
   * Sent once even if the connection breaks in between: it is repeated under the same key after a reconnect.
   *
   * @throws BroadcastError with the server's code, or `closed`, `timeout`, `unserialisable`
   */
  publish(channel: string, data: unknown): Promise<PublishAck>
  /** Who is in the channel now. Fails as `publish` does. */
  presence(channel: string): Promise<Member[]>
  on<Event extends keyof ClientEvents>(
    event: Event,
    listener: (event: ClientEvents[Event]) => void
  ): () => void
  close(): void
}
