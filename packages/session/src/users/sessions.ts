import { type LoginOptions, readLogin } from '../request/login-options.js'
import { type SessionParts, stateOf } from '../request/session-access.js'
import type { SessionData, SessionValues } from '../request/session-data.js'
import { Session } from '../request/session.js'
import { SessionState, type Visitor } from '../lifecycle/session-state.js'
import type { SessionInfo, UserSessions } from './user-sessions.js'

/** Whose session it is to look like in the list of the user's sessions. */
export interface CreateOptions extends LoginOptions, Partial<Visitor> {}

/** A session in the hands of code outside a request: nothing is saved by itself. */
export class StoredSession<Data extends object = SessionData> extends Session<Data> {
  /** The cookie's value: it opens the session. `undefined` once the session has ended. */
  get id(): string | undefined {
    return stateOf(this).token?.value
  }
}

/** `fastify.sessions`: sessions by user and by id, from anywhere. */
export interface Sessions {
  /** The user's sessions, the one used last first. */
  list(userId: string): Promise<SessionInfo[]>
  /** How many there are. */
  count(userId: string): Promise<number>
  /**
   * Ends one of a user's sessions on all instances and closes its sockets.
   * @returns false if the user has no such session
   */
  revoke(userId: string, ref: string): Promise<boolean>
  /**
   * Ends all of a user's sessions: every one there was when it was called.
   * @param options.except the reference of one to keep, usually the present one
   * @returns how many were ended
   */
  revokeAll(userId: string, options?: { except?: string }): Promise<number>
  /** Opens a session without a request, for a user or, with `undefined`, for an anonymous visitor. */
  create<Data extends object = SessionData>(
    userId: string | undefined,
    data?: SessionValues<Data>,
    options?: CreateOptions
  ): Promise<StoredSession<Data>>
  /**
   * The session of a cookie's value, for code that gets cookies by another way than a request.
   * `undefined` if none of the secrets signed it or the session has ended.
   */
  get<Data extends object = SessionData>(id: string): Promise<StoredSession<Data> | undefined>
}

export function createSessions(parts: SessionParts, users: UserSessions): Sessions {
  const { loader, lifecycle, tokens, settings } = parts
  return {
    list: (userId) => users.list(userId),
    count: (userId) => users.count(userId),
    revoke: (userId, ref) => users.revoke(userId, ref),
    revokeAll: (userId, { except } = {}) => users.revokeAll(userId, except),

    async create<Data extends object>(
      userId: string | undefined,
      data: SessionValues<Data> = {},
      { ip, userAgent, ...login }: CreateOptions = {}
    ) {
      const state = new SessionState('none', undefined, { ip, headers: { 'user-agent': userAgent } })
      for (const [key, value] of Object.entries(data)) state.fields.set(key, value)
      if (userId === undefined) await lifecycle.create(state)
      else await lifecycle.login(state, userId, readLogin('sessions.create()', login, settings))
      return new StoredSession<Data>(state, parts)
    },

    async get<Data extends object>(id: string) {
      const token = typeof id === 'string' ? tokens.verify(id) : undefined
      if (!token) return undefined
      const state = new SessionState('none', token)
      await loader.open(state)
      return state.phase === 'live' ? new StoredSession<Data>(state, parts) : undefined
    }
  }
}
