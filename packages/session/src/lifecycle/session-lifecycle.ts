import { type RedisClient, waitForReplicas } from '@flotilla/redis'
import type { Announcer } from './revocation-publisher.js'
import { channels } from '../diagnostics.js'
import type { Devices } from '../users/devices.js'
import { ERR_GONE, ERR_NOT_DURABLE } from '../errors.js'
import type { Keys, Owner } from '../store/keys.js'
import type { LocalSessions } from '../store/local-sessions.js'
import type { Settings } from '../options.js'
import type { Outage } from './store-errors.js'
import type { SessionReader } from './reader.js'
import { assertStorable } from './schema.js'
import { SessionFields } from '../store/session-fields.js'
import type { SessionState } from './session-state.js'
import {
  NO_CHANGES,
  type Changes,
  type Found,
  type Place,
  type Renewal,
  type SessionStore,
  type TakeResult
} from '../store/store.js'
import type { Ticket, Ticketing } from '../store/token.js'

/** Everything that gives a session another id: opening, login, logout, regeneration, renewal. */
export interface SessionIdentity {
  create(state: SessionState): Promise<void>
  login(state: SessionState, userId: string, label: string | undefined): Promise<void>
  /** Ends the session in Redis and everywhere. */
  end(state: SessionState): Promise<void>
  /** Ends the session; a new one without a user begins, with the values of `keep` only. */
  regenerate(state: SessionState, keep: readonly string[]): Promise<void>
  /**
   * The same session under a new id.
   * @returns as {@link Renewal}: where it says `gone` or `busy`, nothing has changed
   */
  renew(state: SessionState, grace: number): Promise<Renewal>
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
  /** Work that nobody waits for, to be finished before the app closes. */
  readonly later: (work: Promise<unknown>) => void
}

type Texts = ReadonlyMap<string, string>

/** The part of a session's data that goes with it to another id. */
type Pick = (fields: SessionFields) => SessionFields

/** Whose a session is to be. */
interface Binding {
  readonly id: string
  readonly owner: Owner
  readonly label: string | undefined
}

// A browser that never stops writing must not keep its own login waiting.
const PATIENT_TAKES = 5

export function createIdentity(parts: IdentityParts): SessionIdentity {
  const { client, store, keys, devices, ticketing, reader, local, outage, announcer, settings, later } = parts

  const settle = async (key: string): Promise<void> => {
    if (!settings.durable) return
    const { replicas, timeout } = settings.durable
    try {
      await waitForReplicas(client, { key, replicas, timeout })
    } catch (cause) {
      throw Object.assign(outage.withRetryAfter(new ERR_NOT_DURABLE()), { cause })
    }
  }

  /** Opens a session in Redis; the state knows nothing of it yet. */
  const open = async (
    state: SessionState,
    ticket: Ticket,
    set: Changes['set'],
    user?: Binding
  ): Promise<Found> => {
    const device = user ? devices.write(user.owner, ticket, state.visitor, user.label) : ''
    const changes = { set, remove: [] }
    // Data that a newer instance wrote is of its shape under a new id too.
    const version = Math.max(settings.version, set.length > 0 ? (state.found?.meta.version ?? 0) : 0)
    const now = await outage.ask('create', () =>
      store.create(ticket, { userId: user?.id, owner: user?.owner, changes, device, version })
    )
    return {
      ticket,
      meta: {
        createdAt: now,
        absoluteAt: now + settings.absoluteTimeout,
        touchedAt: now,
        renewedAt: now,
        revision: 1,
        version,
        ref: ticket.hash,
        userHash: user?.owner.userHash
      },
      userId: user?.id,
      fields: {}
    }
  }

  const adopt = (state: SessionState, found: Found, fields: SessionFields): void => {
    const { meta, userId } = found
    if (state.phase === 'live') state.none()
    state.live(found, fields)
    state.writtenAt = meta.createdAt
    state.cookie = 'set'
    if (channels.created.active)
      channels.created.publish(userId === undefined ? { ref: meta.ref } : { ref: meta.ref, userId })
  }

  /** @param ended false where it had ended already: whoever ended it has told so */
  const announceEnd = async ({ meta, userId }: Found, ended: boolean): Promise<void> => {
    local?.drop(meta.ref)
    await announcer.revoked([meta.ref], userId, !ended)
  }

  /** Ends what is in Redis. */
  const take = async (state: SessionState): Promise<void> => {
    const { place, found } = state
    if (!place || !found) return
    let ended = true
    try {
      ended = (await outage.ask('end', () => store.take(place))) !== undefined
    } catch (error) {
      // Unreadable, and gone with that: all that was wanted.
      if (!reader.drop(state, error)) throw error
    }
    await announceEnd(found, ended)
  }

  /**
   * Ends the session that another replaces, once the new one holds everything: a failure on the way leaves the
   * old one as it was.
   * @param texts what the new one was opened with
   * @param textsOf what the new one is to hold, given what the old one holds; `undefined` where that is gone
   * @returns what the new one holds
   */
  const supersede = async (
    state: SessionState,
    next: Place,
    texts: Texts,
    textsOf: (old: Found | undefined) => Texts
  ): Promise<Texts> => {
    const place = state.place!
    const found = state.found!
    let known = found
    let held = texts
    let ended: boolean
    for (let attempt = 1; ; attempt++) {
      const revision = attempt > PATIENT_TAKES ? undefined : known.meta.revision
      let result: TakeResult
      ended = true
      try {
        result = await outage.ask('end', () => store.takeUnchanged(place, revision))
        ended = result === 'repeated' || result?.taken === true
      } catch (error) {
        if (!reader.drop(state, error)) throw error
      }
      // What the new one holds is what was known.
      if (result === 'repeated') break
      const wanted = textsOf(result?.found)
      const changes = difference(held, wanted)
      if (changes) {
        if ((await outage.ask('save', () => store.save(next, changes))) === undefined) throw new ERR_GONE()
        held = wanted
      }
      if (!result || result.taken) break
      known = result.found
    }
    await announceEnd(found, ended)
    return held
  }

  /** Goes on under a new id, with some of the data and perhaps for a user; the session before ends. */
  const move = async (state: SessionState, pick: Pick, user?: Binding): Promise<void> => {
    const { place } = state
    const before = pick(state.fields)
    const own = before.changes()
    const textsOf = (old: Found | undefined): Texts => {
      const texts = old ? pick(reader.fieldsOf(old)).snapshot() : new Map<string, string>()
      for (const [field, text] of own?.set ?? []) texts.set(field, text)
      for (const field of own?.remove ?? []) texts.delete(field)
      return texts
    }
    const was = before.snapshot()
    const whole = new SessionFields(Object.fromEntries(was))
    // After a regeneration the handler may still add what the schema wants.
    await assertStorable(whole, NO_CHANGES, user ? settings : { ...settings, schema: undefined })

    const ticket = ticketing.issue(user?.owner.tag)
    const next: Place = { ticket, userHash: user?.owner.userHash }
    let opened: Found
    let fields: SessionFields
    try {
      opened = await open(state, ticket, [...was], user)
      if (user) await settle(store.keyOf(ticket))
      const texts = place ? await supersede(state, next, was, textsOf) : was
      fields = SessionFields.from(texts, before, was)
    } catch (error) {
      // Nobody will ever have its id, and it must not stay among the user's devices.
      later(store.take(next))
      throw error
    }
    adopt(state, opened, fields)
    if (place) await settle(store.keyOf(place.ticket))
  }

  const end = async (state: SessionState): Promise<void> => {
    const { place } = state
    if (place) await take(state)
    if (place || (state.presented && state.phase !== 'away')) state.cookie = 'clear'
    state.none()
    if (place) await settle(store.keyOf(place.ticket))
  }

  return {
    settle,

    async create(state) {
      const changes = state.fields.changes()
      await assertStorable(state.fields, changes ?? NO_CHANGES, settings)
      const ticket = state.reserve(() => ticketing.issue())
      adopt(state, await open(state, ticket, changes?.set ?? []), state.fields)
      if (changes) state.fields.saved(changes)
    },

    async login(state, userId, label) {
      const owner = keys.owners(userId)[0]!
      // What one user left behind is not for the next.
      const keeps = state.userId === undefined || state.userId === userId
      const pick: Pick = keeps ? (fields) => fields : (fields) => fields.only([])
      await move(state, pick, { id: userId, owner, label })
    },

    end,

    async regenerate(state, keep) {
      const { fields } = state
      if (state.place && keep.some((key) => fields.has(key))) {
        await move(state, (present) => present.only(keep))
      } else {
        const kept = state.place ? undefined : fields.only(keep)
        await end(state)
        if (kept) state.fields = kept
      }
      fields.retire()
    },

    async renew(state, grace) {
      const place = state.place!
      const found = state.found!
      const renewal = await outage.ask('renew', () => store.renew(found, place, grace))
      if (typeof renewal === 'string') return renewal
      const { ref } = found.meta
      local?.drop(ref)
      state.place = { ticket: renewal.ticket, userHash: place.userHash }
      state.cookie = 'set'
      if (renewal.moved) {
        channels.renewed.publish({ ref })
        await announcer.changed(ref)
      }
      return renewal
    }
  }
}

function difference(from: Texts, to: Texts): Changes | undefined {
  const set = [...to].filter(([field, text]) => from.get(field) !== text)
  const remove = [...from.keys()].filter((field) => !to.has(field))
  return set.length > 0 || remove.length > 0 ? { set, remove } : undefined
}
