import type { ConsistencyToken } from '@flotilla/core'

/** Where a client stands in a channel: the history's epoch and the offset of the last message it has. */
export interface Position {
  /** Names one unbroken log. It changes when a promoted replica, a restart or an expiry broke the log. */
  readonly epoch: string
  /** The id of a message: `<milliseconds>-<sequence>`; grows within an epoch, never used twice. */
  readonly offset: string
}

/** One connection subscribed to a channel that keeps presence. */
export interface Member {
  /** The connection: unique in the fleet. */
  readonly id: string
  /** The user, where the connection has one. */
  readonly userId?: string
  /** What the rule's `presence` function returned. */
  readonly info?: unknown
}

/** The client that published a message. */
export interface Sender {
  /** The connection: unique in the fleet. */
  readonly connection: string
  /** The user, if the connection has one. */
  readonly userId?: string
}

/** Every `code` an `error` frame carries. */
export const ERROR_CODES = [
  'bad_frame',
  'unknown_command',
  'bad_channel',
  'unknown_channel',
  'bad_position',
  'forbidden',
  'too_many_channels',
  'no_presence',
  'too_large',
  'too_deep',
  'unknown_call',
  'invalid_data',
  'internal',
  'rate_limited',
  'unavailable'
] as const

/** The `code` of an `error` frame. */
export type ErrorCode = (typeof ERROR_CODES)[number]

/** Why messages may be missing before the next one of a channel. */
export type GapReason =
  /** History was trimmed or has expired past the position. */
  | 'trimmed'
  /** The position's epoch is not one this channel remembers. */
  | 'epoch'
  /** The position lies after the log's end: a failover lost messages that this client has. */
  | 'ahead'
  /** The log goes on in another epoch: a failover may have lost messages that were acknowledged, unless the channel is durable. */
  | 'failover'
  /** A channel without history: the connection to Redis was interrupted. */
  | 'interrupted'
  /** The client read too slowly and the channel's policy skipped messages. */
  | 'slow'

/** Frames of a client; each is one JSON object in one text frame. `id` comes back in the answer. */
export type ClientFrame =
  | { type: 'subscribe'; id?: number | string; channel: string; since?: Position }
  | { type: 'unsubscribe'; id?: number | string; channel: string }
  | { type: 'publish'; id?: number | string; channel: string; data: unknown; key?: string }
  | { type: 'presence'; id?: number | string; channel: string }
  | { type: 'call'; id?: number | string; name: string; data?: unknown }
  | { type: 'cancel'; id: number | string }
  | { type: 'ping'; id?: number | string }

/** What a client may send; a connection learns it from its `welcome` frame. */
export interface ClientLimits {
  /** Bytes of one frame. A longer one closes the connection with 1009. */
  readonly maxPayload: number
  /** Channels of one connection. One more is refused with `too_many_channels`. */
  readonly maxChannels: number
  /** Commands a second. More, once the burst is used up, close the connection with 4429. */
  readonly perSecond: number
  /** Commands at once. */
  readonly burst: number
  /** The socket is read no faster than this. */
  readonly bytesPerSecond: number
}

/** Frames of the server. */
export type ServerFrame =
  | { type: 'welcome'; connection: string; ping: number; idempotencyTtl: number; limits: ClientLimits }
  | ({ type: 'subscribed'; id?: number | string; channel: string; recovered: boolean } & Position)
  | {
      type: 'unsubscribed'
      id?: number | string
      channel: string
      /** The server took the connection out of the channel. */
      byServer?: true
    }
  | { type: 'published'; id?: number | string; channel: string; offset?: string; epoch?: string }
  | { type: 'presence'; id?: number | string; channel: string; members: Member[] }
  | { type: 'result'; id: number | string; data: unknown }
  | {
      type: 'message'
      channel: string
      data: unknown
      /** Of a publish with an idempotency key: for `idempotencyTtl` the same key is the same message, in whichever epoch. */
      key?: string
      /** Of a message that a client published; set by the server. */
      from?: Sender
      token?: ConsistencyToken
      offset?: string
      epoch?: string
    }
  | ({ type: 'gap'; channel: string; reason: GapReason } & Position)
  | { type: 'join'; channel: string; member: Member }
  | { type: 'leave'; channel: string; member: Member }
  | {
      type: 'error'
      id?: number | string
      channel?: string
      /** One of these, or the code of a {@link PublishRefusedError} or {@link CallRefusedError} of the app. */
      code: ErrorCode | (string & {})
      message: string
      /** Of an error that may be over later (`unavailable`, `rate_limited`): milliseconds to wait at least. */
      retryAfter?: number
    }
  | { type: 'reconnect'; delay: number }
  | { type: 'ping' }
  | { type: 'pong'; id?: number | string }

/** Close codes (RFC 6455 §7.4; 4000–4999 are the application's). */
export const CLOSE = {
  /** A binary frame where text is due. */
  BINARY: 1003,
  /** Larger than `maxPayload` (sent by ws). */
  TOO_LARGE: 1009,
  /** The instance is going away: reconnect after the delay of the `reconnect` frame. */
  RESTART: 1012,
  /** Too many frames that are not commands. */
  BAD_FRAMES: 4400,
  /** The session or identity is no longer good: log in again, do not reconnect. */
  UNAUTHORIZED: 4401,
  /** `disconnect()` was called for this connection. */
  DISCONNECTED: 4403,
  /** Nothing came back within the ping deadline. */
  SILENT: 4408,
  /** Too many commands. */
  RATE_LIMITED: 4429,
  /** The client reads slower than the channel's policy allows. */
  SLOW: 4430
} as const
