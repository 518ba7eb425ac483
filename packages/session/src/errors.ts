import { createError } from '@fastify/error'

/*
 * Fastify sends the message of an error to the client. So a message that a request's data can cause names no field, no limit and no user:
 * `cause` does, which Fastify logs with the error.
 */

/** What only the log is to show of an error. */
export function detail(text: string, cause?: unknown): { readonly cause: Error } {
  return { cause: new Error(text, cause === undefined ? undefined : { cause }) }
}

/** An option of `register` that cannot work. */
export const ERR_OPTION = createError('FLOTILLA_SESSION_ERR_OPTION', '%s', 500)

/** The plugin, or another one that decorates `request.session`, is already there. */
export const ERR_REGISTERED = createError(
  'FLOTILLA_SESSION_ERR_REGISTERED',
  '@flotilla/session: this scope already has a `session`; register one session plugin in a scope, and a second one in a sibling scope with another cookie name',
  500
)

/** Redis could not be asked. Sent with `Retry-After`. */
export const ERR_UNAVAILABLE = createError(
  'FLOTILLA_SESSION_ERR_UNAVAILABLE',
  'The session store cannot be reached; try again in a moment',
  503
)

/** A write while the store is away and `onOutage` is `'anonymous'`. Sent with `Retry-After`. */
export const ERR_READ_ONLY = createError(
  'FLOTILLA_SESSION_ERR_READ_ONLY',
  'The session store cannot be reached, so nothing can be saved; try again in a moment',
  503
)

/** Fewer replicas than `durable.replicas` answered in time: a failover could undo the change. */
export const ERR_NOT_DURABLE = createError(
  'FLOTILLA_SESSION_ERR_NOT_DURABLE',
  'The change was made, but a failure could still undo it; repeat it',
  503
)

/** `config: { session: 'lazy' }` and `session.load()` was not awaited. */
export const ERR_NOT_LOADED = createError(
  'FLOTILLA_SESSION_ERR_NOT_LOADED',
  'This route loads its session on demand: `await request.session.load()` before reading or writing it',
  500
)

/** A name that the session object itself uses. */
export const ERR_RESERVED = createError(
  'FLOTILLA_SESSION_ERR_RESERVED',
  "`session.%s` belongs to the session itself and cannot be assigned; use session.set('%s', value) for data of that name, and session.login(userId) for the user",
  500
)

/** A key that cannot be stored: empty, not a string, `__proto__`, `constructor` or `prototype`. `cause` names it. */
export const ERR_KEY = createError(
  'FLOTILLA_SESSION_ERR_KEY',
  'A session cannot hold a value under this key',
  500
)

/** A field holds what JSON cannot, or what is never read back (`__proto__`). `cause` names the field and the reason. */
export const ERR_UNSERIALISABLE = createError(
  'FLOTILLA_SESSION_ERR_UNSERIALISABLE',
  'The session holds a value that cannot be stored',
  500
)

/** The session would exceed `maxSize`. `cause` names the largest field. */
export const ERR_TOO_LARGE = createError(
  'FLOTILLA_SESSION_ERR_TOO_LARGE',
  'The session holds too much data to be saved',
  413
)

/** The data does not satisfy `schema`. `cause` names what is wrong. */
export const ERR_INVALID_DATA = createError(
  'FLOTILLA_SESSION_ERR_INVALID_DATA',
  'The session data does not satisfy its schema',
  500
)

/** The session was revoked, destroyed or expired while this request ran. */
export const ERR_GONE = createError(
  'FLOTILLA_SESSION_ERR_GONE',
  'The session ended while it was in use; nothing was written',
  409
)

/** The user has as many sessions as `maxPerUser` allows, and `onExceed` is `'refuse'`. `cause` names the limit. */
export const ERR_TOO_MANY = createError(
  'FLOTILLA_SESSION_ERR_TOO_MANY',
  'You are logged in on as many devices as are allowed: log out on one of them first',
  409
)

/** `reauthenticated` of a session without a user. */
export const ERR_NO_USER = createError('FLOTILLA_SESSION_ERR_NO_USER', 'Log in first', 401)

/** `update` or `renew` lost the race against other requests too often. `cause` names the field. */
export const ERR_CONFLICT = createError(
  'FLOTILLA_SESSION_ERR_CONFLICT',
  'The session kept changing while it was being written; try again',
  409
)

/** `login`, `create` or an operation on a user without a usable user id. `cause` names what is wrong with it. */
export const ERR_USER_ID = createError(
  'FLOTILLA_SESSION_ERR_USER_ID',
  'This user id cannot be used for a session',
  500
)
