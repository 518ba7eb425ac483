export { default, flotillaSession } from './plugin.js'
export type {
  DurableOptions,
  LocalOptions,
  MaxPerUserOptions,
  RenewOptions,
  SessionCookieAttributes,
  SessionCookieOptions,
  SessionOptions
} from './options.js'
export { Session } from './request/session.js'
export type { SessionCookieInfo } from './request/cookie.js'
export type { SessionCallback } from './request/session-access.js'
export type { RenewalOptions } from './request/session.js'
export type { LoginOptions } from './request/login-options.js'
export type { SessionData, SessionKey, SessionValue, SessionValues } from './request/session-data.js'
export { StoredSession } from './users/sessions.js'
export type { CreateOptions, Sessions } from './users/sessions.js'
export type { SessionInfo } from './users/user-sessions.js'
export type { SchemaIssue, SchemaResult, StandardSchema } from '@flotilla/core'
export type { SessionDataOf } from './lifecycle/schema.js'
export type {
  CreatedMessage,
  DroppedMessage,
  LoadedMessage,
  OutageMessage,
  RefusedMessage,
  RejectedMessage,
  RenewedMessage,
  ReusedMessage,
  RevokedMessage,
  SavedMessage
} from './diagnostics.js'
export {
  ERR_CONFLICT as SessionConflictError,
  ERR_GONE as SessionGoneError,
  ERR_INVALID_DATA as SessionInvalidDataError,
  ERR_KEY as SessionKeyError,
  ERR_NOT_DURABLE as SessionNotDurableError,
  ERR_NO_USER as SessionNoUserError,
  ERR_NOT_LOADED as SessionNotLoadedError,
  ERR_OPTION as SessionOptionError,
  ERR_READ_ONLY as SessionReadOnlyError,
  ERR_REGISTERED as SessionRegisteredError,
  ERR_RESERVED as SessionReservedError,
  ERR_TOO_LARGE as SessionTooLargeError,
  ERR_TOO_MANY as SessionTooManyError,
  ERR_UNAVAILABLE as SessionUnavailableError,
  ERR_UNSERIALISABLE as SessionUnserialisableError,
  ERR_USER_ID as SessionUserIdError
} from './errors.js'
