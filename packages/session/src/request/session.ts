import { inspect } from 'node:util'
import { detail, ERR_CONFLICT, ERR_GONE, ERR_NO_USER } from '../errors.js'
import { readCookieAttributes, type SessionCookieAttributes } from '../options.js'
import type { SessionState } from '../lifecycle/session-state.js'
import type { SessionCookieInfo } from './cookie.js'
import { type LoginOptions, readLogin } from './login-options.js'
import {
  asking,
  end,
  kParts,
  kState,
  load,
  operation,
  readable,
  recover,
  save,
  type SessionCallback,
  type SessionParts,
  writable
} from './session-access.js'
import type { SessionData, SessionKey, SessionValue, SessionValues } from './session-data.js'

/** What a renewal decides. */
export interface RenewalOptions {
  /**
   * The cookie before stops working at once: after a change of rights. If this response is lost on its way, the user has to log in again.
   * Default false: it works until its successor has been presented, and for `renew.grace` after that.
   */
  immediate?: boolean
}

const NOTHING = Object.freeze({})

/**
 * A session. Data is read and written by key or through `data`; fields that have changed are saved before
 * the response is sent. Keys that are no members here can also be read and written as properties, which is
 * what plugins written for other session plugins do.
 */
export class Session<Data extends object = SessionData> {
  /** @internal */ readonly [kState]: SessionState
  /** @internal */ readonly [kParts]: SessionParts

  /** @internal */
  constructor(state: SessionState, parts: SessionParts) {
    this[kState] = state
    this[kParts] = parts
  }

  /** The user that `login` bound the session to. */
  get userId(): string | undefined {
    return readable(this).userId
  }

  /** A public reference: names the session to `sessions.revoke` and in messages on the bus. Not a secret. */
  get ref(): string {
    const state = readable(this)
    return state.record?.key.ref ?? state.reserve(() => this[kParts].tokens.issue()).ref
  }

  /** True while nothing has been saved under this session's id. */
  get isNew(): boolean {
    return readable(this).phase !== 'live'
  }

  /** True if the store could not be asked and `onOutage` is `'anonymous'`: empty, and writing throws. */
  get readOnly(): boolean {
    return this[kState].phase === 'degraded'
  }

  /** By Redis's clock; `undefined` while new. */
  get createdAt(): Date | undefined {
    const { record } = readable(this)
    return record && new Date(record.meta.createdAt)
  }

  /**
   * When the user last proved who it is: at the login or at {@link reauthenticated}. `undefined` before a login.
   * Compare it with the present before an action that demands a recent proof.
   */
  get authenticatedAt(): Date | undefined {
    const at = readable(this).record?.meta.authenticatedAt
    return at ? new Date(at) : undefined
  }

  /** The absolute timeout; `undefined` while new. Not using the session ends it sooner. */
  get expiresAt(): Date | undefined {
    const { record } = readable(this)
    return record && new Date(record.meta.absoluteAt)
  }

  /** What the cookie is like, for reading. {@link options} decides it. */
  get cookie(): SessionCookieInfo {
    return this[kParts].cookie.describe(this[kState])
  }

  /**
   * All data as one plain object; what is done to it, however deep, is saved.
   * @throws FLOTILLA_SESSION_ERR_NOT_LOADED
   */
  get data(): SessionValues<Data> {
    const state = readable(this)
    if (state.phase === 'degraded') return NOTHING
    return recover(this, () => state.fields.data, {}) as SessionValues<Data>
  }

  /** A value, or `undefined`. Objects may be changed in place. */
  get<Key extends SessionKey<Data>>(key: Key): SessionValue<Data, Key> | undefined {
    const state = readable(this)
    return recover(this, () => state.fields.get(key), undefined) as SessionValue<Data, Key> | undefined
  }

  /** Whether the key has a value. */
  has(key: SessionKey<Data>): boolean {
    return readable(this).fields.has(key)
  }

  /** The keys that have a value. */
  keys(): SessionKey<Data>[] {
    return readable(this).fields.keys() as SessionKey<Data>[]
  }

  /**
   * Saved before the response is sent; `undefined` removes the key.
   * @throws FLOTILLA_SESSION_ERR_KEY, FLOTILLA_SESSION_ERR_READ_ONLY
   */
  set<Key extends SessionKey<Data>>(key: Key, value: SessionValue<Data, Key> | undefined): this {
    writable(this).fields.set(key, value)
    return this
  }

  /** Removes a key; saved as {@link Session.set} is. @throws FLOTILLA_SESSION_ERR_READ_ONLY */
  delete(key: SessionKey<Data>): this {
    writable(this).fields.set(key, undefined)
    return this
  }

  /**
   * Changes one value atomically across the fleet: `change` gets the present value and may run again if
   * another request was faster. Written when the promise resolves (a session that is still new is written with
   * the response: no other request can have its id).
   *
   * @returns the new value
   * @throws FLOTILLA_SESSION_ERR_KEY, FLOTILLA_SESSION_ERR_GONE, FLOTILLA_SESSION_ERR_CONFLICT,
   *   FLOTILLA_SESSION_ERR_UNAVAILABLE
   */
  update<Key extends SessionKey<Data>>(
    key: Key,
    change: (
      value: SessionValue<Data, Key> | undefined
    ) => SessionValue<Data, Key> | Promise<SessionValue<Data, Key>>
  ): Promise<SessionValue<Data, Key>> {
    return operation(this, 'update', async () => {
      await load(this)
      const state = writable(this)
      const { writer } = this[kParts]
      const value = await asking(this, () => writer.update(state, key, change as (value: unknown) => unknown))
      return value as SessionValue<Data, Key>
    })
  }

  /**
   * Binds the session to a user under a new id (OWASP: against session fixation) and lists it among the
   * user's sessions. Data is kept, unless it belongs to another user. The old id is dead when this resolves.
   * If it rejects, the session is still the one it was. One exception: if replicas confirm the new session but
   * not the end of the old one, it rejects with FLOTILLA_SESSION_ERR_NOT_DURABLE and the user is logged in, under
   * another `ref`; only a failover could bring the old id back.
   *
   * @throws FLOTILLA_SESSION_ERR_USER_ID, FLOTILLA_SESSION_ERR_OPTION, FLOTILLA_SESSION_ERR_TOO_MANY, FLOTILLA_SESSION_ERR_TOO_LARGE,
   *   FLOTILLA_SESSION_ERR_INVALID_DATA, FLOTILLA_SESSION_ERR_UNAVAILABLE, FLOTILLA_SESSION_ERR_NOT_DURABLE
   */
  login(userId: string, options: LoginOptions = {}): Promise<void> {
    return operation(this, 'login', async () => {
      const choices = readLogin('session.login()', options, this[kParts].settings)
      await load(this)
      const state = writable(this)
      await asking(this, () => this[kParts].lifecycle.login(state, userId, choices))
    })
  }

  /** Ends the session on all instances, clears the cookie and, where configured, the site's data. */
  logout(): Promise<void> {
    return operation(this, 'logout', async () => {
      await end(this)
      this[kState].loggedOut = true
    })
  }

  /** Ends the session on all instances and clears the cookie. */
  destroy(callback?: SessionCallback): Promise<void> {
    return operation(this, 'destroy', () => end(this), callback)
  }

  /**
   * Ends the session and begins a new one without a user. Of the data only the values of `keep` are taken
   * along; use {@link renew} for a new id and everything else as it was. An object that `data` gave before is frozen: what
   * is written to it would not be saved. If it rejects, the session is still the
   * one it was, but for FLOTILLA_SESSION_ERR_NOT_DURABLE: then it has ended, and only a failover could bring it back.
   *
   * @throws FLOTILLA_SESSION_ERR_TOO_LARGE, FLOTILLA_SESSION_ERR_UNAVAILABLE, FLOTILLA_SESSION_ERR_NOT_DURABLE
   */
  regenerate(keep?: readonly string[] | SessionCallback, callback?: SessionCallback): Promise<void> {
    const [keys, done] = typeof keep === 'function' ? [[], keep] : [keep ?? [], callback]
    const regenerate = async (): Promise<void> => {
      await load(this)
      const state = writable(this)
      await asking(this, () => this[kParts].lifecycle.regenerate(state, keys))
    }
    return operation(this, 'regenerate', regenerate, done)
  }

  /**
   * The same session and user with a new cookie. What was changed is saved. The cookie before works until its successor has been presented
   * once, and for `renew.grace` after that, so that neither a lost response nor a parallel request logs the user out. After that it is taken
   * for a stolen one (see the option `onReuse`). While the cookie before still works nothing is renewed again.
   *
   * @throws FLOTILLA_SESSION_ERR_CONFLICT if other requests renewed it at each of a few tries; FLOTILLA_SESSION_ERR_UNAVAILABLE
   */
  renew({ immediate = false }: RenewalOptions = {}): Promise<void> {
    return operation(this, 'renew', async () => {
      await load(this)
      const state = writable(this)
      await save(this)
      if (state.phase !== 'live') return
      const { key } = state.record!
      const outcome = await asking(this, () => this[kParts].lifecycle.renew(state, immediate))
      if (outcome === 'busy') throw new ERR_CONFLICT(detail('other requests renewed the session at each try'))
      if (outcome === 'ended') this[kParts].writer.refused(state, key)
    })
  }

  /**
   * Call it when the user of this session has proved again who it is (step-up): `authenticatedAt` is now, on every instance. The cookie is
   * renewed, as {@link renew} does it. To void the cookie before at once, call `renew({ immediate: true })` as well.
   *
   * @throws FLOTILLA_SESSION_ERR_NO_USER before a login; FLOTILLA_SESSION_ERR_GONE if the session has ended meanwhile;
   *   FLOTILLA_SESSION_ERR_CONFLICT, FLOTILLA_SESSION_ERR_UNAVAILABLE
   */
  reauthenticated(): Promise<void> {
    return operation(this, 'reauthenticated', async () => {
      await load(this)
      const state = writable(this)
      if (state.phase === 'ended') throw new ERR_GONE()
      if (state.userId === undefined) throw new ERR_NO_USER()
      const { key } = state.record!
      if (await asking(this, () => this[kParts].lifecycle.reauthenticated(state))) return
      this[kParts].writer.refused(state, key)
      throw new ERR_GONE()
    })
  }

  /** Reads the session if the route's config says `session: 'lazy'`; nothing otherwise. */
  load(): Promise<this> {
    return operation(this, 'load', async () => {
      await load(this)
      return this
    })
  }

  /** Reads it again, giving up what was not saved; a session that is new is empty again. */
  reload(callback?: SessionCallback): Promise<this> {
    const reload = async (): Promise<this> => {
      const state = this[kState]
      const token = state.token ?? state.record?.token ?? state.presented
      if (token && state.phase !== 'ended') await asking(this, () => this[kParts].loader.open(state, token))
      else if (state.phase === 'none') state.none()
      return this
    }
    return operation(this, 'reload', reload, callback)
  }

  /**
   * Saves at once what is otherwise saved with the response: for responses that bypass Fastify
   * (`reply.hijack()`, a WebSocket) and for work after the response. If the session has ended meanwhile, nothing is
   * written from then on and `isNew` is true; `login` and `regenerate` begin another one.
   *
   * @throws FLOTILLA_SESSION_ERR_UNSERIALISABLE, FLOTILLA_SESSION_ERR_TOO_LARGE, FLOTILLA_SESSION_ERR_INVALID_DATA,
   *   FLOTILLA_SESSION_ERR_UNAVAILABLE, FLOTILLA_SESSION_ERR_READ_ONLY
   */
  save(callback?: SessionCallback): Promise<void> {
    return operation(this, 'save', () => save(this), callback)
  }

  /**
   * Moves the idle deadline, which otherwise happens by itself; does nothing if the session is still new.
   * @throws FLOTILLA_SESSION_ERR_UNAVAILABLE, FLOTILLA_SESSION_ERR_READ_ONLY
   */
  touch(): Promise<void> {
    return operation(this, 'touch', async () => {
      const state = readable(this)
      if (state.phase === 'none' || state.phase === 'ended') return
      writable(this)
      await asking(this, () => this[kParts].writer.touch(state))
    })
  }

  /**
   * Attributes of this session's cookie, should this response set it. What makes it the same cookie (`domain`, `path`) and what protects it
   * cannot be changed.
   *
   * @throws FLOTILLA_SESSION_ERR_OPTION naming the attribute
   */
  options(cookie: SessionCookieAttributes): void {
    const state = this[kState]
    const { attributes, maxAge, persistent } = readCookieAttributes(cookie, this[kParts].settings.cookie)
    state.cookieOptions = { ...state.cookieOptions, ...attributes }
    state.cookieMaxAge = maxAge ?? state.cookieMaxAge
    state.cookiePersistent = persistent ?? state.cookiePersistent
  }

  /** The data, so that logging or sending a session never discloses its id. */
  toJSON(): SessionValues<Data> {
    return { ...this.data }
  }

  /** What `console.log` shows: neither the id nor the data. */
  [inspect.custom](): unknown {
    const { phase, userId } = this[kState]
    return { session: phase, userId }
  }
}
