import type { ErrorCode } from '../protocol.js'

/** The server's code, or the client's own. */
export type BroadcastErrorCode =
  | ErrorCode
  | (string & {})
  | 'closed'
  | 'connect'
  | 'interrupted'
  | 'timeout'
  | 'unserialisable'
  | 'unsubscribed'

/**
 * An `error` frame of the server (`code` is its code), or an error of the client itself:
 * - `closed`: the connection has ended for good.
 * - `connect`: an attempt had no URL or no socket; see `cause`.
 * - `interrupted`: the connection ended before a call was answered.
 * - `timeout`: no answer in time.
 * - `unserialisable`: data that JSON cannot hold.
 * - `unsubscribed`: ended before the subscription was confirmed.
 */
export class BroadcastError extends Error {
  /** Always `BroadcastError`. */
  override readonly name = 'BroadcastError'
  /** The channel it is about, if the server named one. */
  readonly channel?: string
  /** Of `unavailable` and `rate_limited`: milliseconds to wait at least before the next attempt. */
  readonly retryAfter?: number

  constructor(
    /** The server's code, or the client's own. */
    readonly code: BroadcastErrorCode,
    message: string,
    channel?: string,
    retryAfter?: number
  ) {
    super(message)
    if (retryAfter !== undefined) this.retryAfter = retryAfter
    if (channel !== undefined) this.channel = channel
  }
}
