import {
  type LoginOptions,
  Session,
  type SessionData,
  type SessionParts,
  type SessionValues,
  stateOf
} from '../request/session.js'
import { SessionState, type Visitor } from '../lifecycle/session-state.js'
import type { SessionInfo, UserSessions } from './user-sessions.js'

/** Whose session it is to look like in the list of the user's sessions. */
export interface CreateOptions extends LoginOptions, Partial<Visitor> {}

/** A session in the hands of code outside a request: nothing is saved by itself. */
export class StoredSession<Data extends object = SessionData> extends Session<Data> {
  /** The cookie's value: whoever has it, has the session. `undefined` once it has ended. */
  get id(): string | undefined {
    return stateOf(this).place?.ticket.value
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
   * @returns false where the user has no such session
   */
  revoke(userId: string, ref: string): Promise<boolean>
  /**
   * Ends all of a user's sessions: every one there was when it was called.
   * @param options.except the reference of one to keep, usually the present one
   * @returns how many were ended
   */
  revokeAll(userId: string, options?: { except?: string }): Promise<number>
  /** Opens a session without a request, for a user or, with `undefined`, for nobody yet. */
  create<Data extends object = SessionData>(
    userId: string | undefined,
    data?: SessionValues<Data>,
    options?: CreateOptions
  ): Promise<StoredSession<Data>>
  /**
   * The session of a cookie's value, for code that gets cookies by another way than a request.
   * `undefined` where none of the secrets signed it or the session has ended.
   */
  get<Data extends object = SessionData>(id: string): Promise<StoredSession<Data> | undefined>
}

export function createSessions(parts: SessionParts, users: UserSessions): Sessions {
  const { reader, identity, ticketing } = parts
  return {
    list: (userId) => users.list(userId),
    count: (userId) => users.count(userId),
    revoke: (userId, ref) => users.revoke(userId, ref),
    revokeAll: (userId, { except } = {}) => users.revokeAll(userId, except),

    async create<Data extends object>(
      userId: string | undefined,
      data: SessionValues<Data> = {},
      { label, ip, userAgent }: CreateOptions = {}
    ) {
      const state = new SessionState('none', undefined, { ip, headers: { 'user-agent': userAgent } })
      for (const [key, value] of Object.entries(data)) state.fields.set(key, value)
      if (userId === undefined) await identity.create(state)
      else await identity.login(state, userId, label)
      return new StoredSession<Data>(state, parts)
    },

    async get<Data extends object>(id: string) {
      const ticket = typeof id === 'string' ? ticketing.verify(id) : undefined
      if (!ticket) return undefined
      const state = new SessionState('none', ticket)
      await reader.open(state)
      return state.phase === 'live' ? new StoredSession<Data>(state, parts) : undefined
    }
  }
}
