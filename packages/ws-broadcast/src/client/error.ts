/**
 * An `error` frame of the server (`code` is its code), or what the client itself refuses: `closed` (the connection
 * has ended for good), `timeout` (no answer in time), `unserialisable` (data that JSON cannot hold), `unsubscribed`
 * (before the subscription was confirmed).
 */
export class BroadcastError extends Error {
  /** Always `BroadcastError`. */
  override readonly name = 'BroadcastError'

  constructor(
    /** The server's code, or the client's own. */
    readonly code: string,
    message: string
  ) {
    super(message)
  }
}
