import { type RedisClient, waitForReplicas } from '@flotilla/redis'
import type { Announcer } from './announcer.js'
import { channels } from './channels.js'
import type { Devices } from './devices.js'
import { ERR_NOT_DURABLE } from './errors.js'
import type { Keys, Owner } from './keys.js'
import type { LocalSessions } from './local-sessions.js'
import type { Settings } from './options.js'
import type { Outage } from './outage.js'
import type { SessionReader } from './reader.js'
import { SessionFields } from './session-fields.js'
import type { SessionState } from './session-state.js'
import { CorruptSession, type Found, type SessionStore } from './store.js'
import type { Ticketing } from './ticket.js'

/** Everything that gives a session another id: opening, login, logout, regeneration, renewal. */
export interface SessionIdentity {
  create(state: SessionState): Promise<void>
  login(state: SessionState, userId: string, label: string | undefined): Promise<void>
  /** Ends the session in Redis and everywhere. */
  end(state: SessionState): Promise<void>
  /** Ends the session; a new one without a user begins, with the values of `keep` only. */
  regenerate(state: SessionState, keep: readonly string[]): Promise<void>
  /** The same session under a new id. `false` where somebody else wrote meanwhile: try again later. */
  renew(state: SessionState, grace: number): Promise<boolean>
  /** Waits for the replicas, where `durable` is on. @throws FLOTILLA_SESSION_ERR_NOT_DURABLE */
  settle(key: string): Promise<void>
}

export interface IdentityParts {
  readonly client: RedisClient
  readonly store: SessionStore
  readonly keys: Keys
  readonly devices: Devices
  readonly ticketing: Ticketing
  readonly reader: SessionReader
  readonly local: LocalSessions | undefined
  readonly outage: Outage
  readonly announcer: Announcer
  readonly settings: Settings
}

type Texts = readonly (readonly [field: string, text: string])[]

export function createIdentity(parts: IdentityParts): SessionIdentity {
  const { client, store, keys, devices, ticketing, reader, local, outage, announcer, settings } = parts

  const settle = async (key: string): Promise<void> => {
    if (!settings.durable) return
    const { replicas, timeout } = settings.durable
    try {
      await waitForReplicas(client, { key, replicas, timeout })
    } catch (cause) {
      throw Object.assign(outage.withRetryAfter(new ERR_NOT_DURABLE()), { cause })
    }
  }

  /** Opens a session with these texts in Redis and in the state. */
  const open = async (
    state: SessionState,
    set: Texts,
    user?: { id: string; owner: Owner; label: string | undefined }
  ): Promise<void> => {
    const ticket = user ? ticketing.issue(user.owner.tag) : state.reserve(() => ticketing.issue())
    state.fields.assertSize({ set, remove: [] }, settings.maxSize)
    const device = user ? devices.write(user.owner, ticket, state.visitor, user.label) : ''
    const changes = { set, remove: [] }
    const now = await outage.ask('create', () =>
      store.create(ticket, { userId: user?.id, owner: user?.owner, changes, device })
    )
    const found: Found = {
      ticket,
      meta: {
        createdAt: now,
        absoluteAt: now + settings.absoluteTimeout,
        touchedAt: now,
        renewedAt: now,
        revision: 1,
        version: settings.version,
        ref: ticket.hash,
        userHash: user?.owner.userHash
      },
      userId: user?.id,
      fields: {}
    }
    state.live(found, state.fields)
    state.writtenAt = now
    state.cookie = 'set'
    channels.created.publish(user ? { ref: ticket.hash, userId: user.id } : { ref: ticket.hash })
  }

  /** Ends what is in Redis and returns it; `undefined` where it had ended already. */
  const take = async (state: SessionState): Promise<Found | undefined> => {
    const { place, found } = state
    if (!place || !found) return undefined
    const taken = await outage.ask('end', async () => {
      try {
        return await store.take(place)
      } catch (error) {
        // Unreadable, and gone now: that is all that was wanted.
        if (error instanceof CorruptSession) return undefined
        throw error
      }
    })
    local?.drop(found.meta.ref)
    await announcer.revoked([found.meta.ref], found.userId)
    return taken
  }

  return {
    settle,

    async create(state) {
      const changes = state.fields.changes()
      await open(state, changes?.set ?? [])
      if (changes) state.fields.saved(changes)
    },

    async login(state, userId, label) {
      const owner = keys.owners(userId)[0]!
      // What one user left behind is not for the next.
      const keeps = state.userId === undefined || state.userId === userId
      const before = keeps ? state.fields : new SessionFields({})
      const own = keeps ? before.changes() : undefined
      const live = state.phase === 'live'
      const taken = await take(state)
      const texts = new Map<string, string>()
      if (keeps && taken)
        for (const [field, text] of reader.fieldsOf(taken).snapshot()) texts.set(field, text)
      for (const [field, text] of own?.set ?? []) texts.set(field, text)
      for (const field of own?.remove ?? []) texts.delete(field)
      if (live) state.none()
      state.fields = SessionFields.from(texts, before)
      await open(state, [...texts], { id: userId, owner, label })
      try {
        await settle(store.keyOf(state.place!.ticket))
      } catch (error) {
        state.cookie = 'keep'
        throw error
      }
    },

    async end(state) {
      const place = state.place
      if (place) {
        await take(state)
        state.cookie = 'clear'
        await settle(store.keyOf(place.ticket))
      } else if (state.presented && state.phase !== 'away') {
        state.cookie = 'clear'
      }
      state.none()
    },

    async regenerate(state, keep) {
      const kept: [string, unknown][] = []
      for (const key of keep) if (state.fields.has(key)) kept.push([key, state.fields.get(key)])
      const place = state.place
      if (place) {
        await take(state)
        await settle(store.keyOf(place.ticket))
      }
      if (state.presented) state.cookie = 'clear'
      state.none()
      for (const [key, value] of kept) state.fields.set(key, value)
    },

    async renew(state, grace) {
      const place = state.place!
      const found = state.found!
      const next = await outage.ask('renew', () => store.renew(found, place, grace))
      if (!next) return false
      local?.drop(found.meta.ref)
      await announcer.changed(found.meta.ref)
      state.place = { ticket: next, userHash: place.userHash }
      state.cookie = 'set'
      channels.renewed.publish({ ref: found.meta.ref })
      return true
    }
  }
}
