import { createError } from '@fastify/error'

/** Errors thrown to the application. Messages say what to do; the origin is kept as `cause`. */
/**
 * Thrown by `onPublish`: the message is not published, and the client's `publish` rejects with this code and message.
 */
export class PublishRefusedError extends Error {
  /** `PublishRefusedError`. */
  override readonly name = 'PublishRefusedError'

  constructor(
    /** 1 to 64 characters; reaches the client. */
    readonly code: string,
    message: string
  ) {
    super(message)
  }
}

/**
 * Thrown by a handler of `onCall`: the client's `call` rejects with this code and message.
 */
export class CallRefusedError extends Error {
  /** `CallRefusedError`. */
  override readonly name = 'CallRefusedError'

  constructor(
    /** 1 to 64 characters; reaches the client. */
    readonly code: string,
    message: string
  ) {
    super(message)
  }
}

export const FLOTILLA_WS_ERR_OPTION = createError<[string]>('FLOTILLA_WS_ERR_OPTION', '%s', 500, TypeError)

export const FLOTILLA_WS_ERR_ALREADY_REGISTERED = createError(
  'FLOTILLA_WS_ERR_ALREADY_REGISTERED',
  '@flotilla/ws-broadcast: already registered in this scope; register it once and add the second path with app.broadcast.attach() in a route of its own',
  500
)

export const FLOTILLA_WS_ERR_CHANNEL_NAME = createError<[string]>(
  'FLOTILLA_WS_ERR_CHANNEL_NAME',
  "Bad channel name %s: use 1 to 200 characters without spaces, control characters, '{' or '}'",
  400
)

export const FLOTILLA_WS_ERR_UNKNOWN_CHANNEL = createError<[string]>(
  'FLOTILLA_WS_ERR_UNKNOWN_CHANNEL',
  "No rule of the option 'channels' matches '%s'; add the name or a pattern such as 'room:*'",
  404
)

export const FLOTILLA_WS_ERR_UNSERIALISABLE = createError<[string]>(
  'FLOTILLA_WS_ERR_UNSERIALISABLE',
  'The data published to %s cannot be written as JSON; publish plain values only',
  400
)

export const FLOTILLA_WS_ERR_TOO_LARGE = createError<[number, number]>(
  'FLOTILLA_WS_ERR_TOO_LARGE',
  "The message takes %s bytes and 'maxPayload' is %s; send a reference to large data instead",
  413
)

export const FLOTILLA_WS_ERR_PUBLISH = createError<[string]>(
  'FLOTILLA_WS_ERR_PUBLISH',
  'Publishing to %s failed in Redis; it may or may not have been stored, so repeat it with the same idempotencyKey',
  503
)

export const FLOTILLA_WS_ERR_NOT_DURABLE = createError<[string, number, number]>(
  'FLOTILLA_WS_ERR_NOT_DURABLE',
  'The message to %s is stored, but only %s of %s replicas confirmed it in time; repeat it with the same idempotencyKey',
  503
)

export const FLOTILLA_WS_ERR_NO_HISTORY = createError<[string]>(
  'FLOTILLA_WS_ERR_NO_HISTORY',
  "Channel '%s' keeps no history: its messages cannot be read again, nor be held by a replica; give its rule a history, or publish without durable",
  400
)

export const FLOTILLA_WS_ERR_NO_PRESENCE = createError<[string]>(
  'FLOTILLA_WS_ERR_NO_PRESENCE',
  "Channel '%s' keeps no presence; set presence: true on its rule",
  400
)

export const FLOTILLA_WS_ERR_ATTACHED = createError(
  'FLOTILLA_WS_ERR_ATTACHED',
  'This socket has been attached already; call attach() once for a socket and name all its channels there',
  500
)

export const FLOTILLA_WS_ERR_CALL_LATE = createError<[string]>(
  'FLOTILLA_WS_ERR_CALL_LATE',
  "onCall('%s') came after the first connection; call it before app.listen()",
  500
)

export const FLOTILLA_WS_ERR_CLOSE_CODE = createError<[string]>(
  'FLOTILLA_WS_ERR_CLOSE_CODE',
  'A connection cannot be closed with code %s; use 1000 or 3000 to 4999',
  500,
  TypeError
)

export const FLOTILLA_WS_ERR_CLOSED = createError(
  'FLOTILLA_WS_ERR_CLOSED',
  'The broadcast plugin is closed; publish before app.close()',
  503
)

export const FLOTILLA_WS_ERR_ORIGIN = createError<[string]>(
  'FLOTILLA_WS_ERR_ORIGIN',
  "Origin %s may not open a WebSocket here; list it in the option 'origins'",
  403
)

export const FLOTILLA_WS_ERR_UNAUTHENTICATED = createError(
  'FLOTILLA_WS_ERR_UNAUTHENTICATED',
  'Log in before opening a WebSocket here',
  401
)

export const FLOTILLA_WS_ERR_FULL = createError<[number]>(
  'FLOTILLA_WS_ERR_FULL',
  'This instance holds its maximum of %s connections; another instance will take you',
  503
)

export const FLOTILLA_WS_ERR_DRAINING = createError(
  'FLOTILLA_WS_ERR_DRAINING',
  'This instance is going away; another instance will take you',
  503
)
