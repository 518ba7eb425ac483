/** An `error` frame of the server, or the end of the connection (`code` is then `'closed'`). */
export class BroadcastError extends Error {
  override readonly name = 'BroadcastError'

  constructor(
    readonly code: string,
    message: string
  ) {
    super(message)
  }
}
