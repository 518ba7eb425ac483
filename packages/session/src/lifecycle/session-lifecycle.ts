import { channels } from '../diagnostics.js'
import { detail, ERR_GONE, ERR_NOT_DURABLE, ERR_TOO_MANY } from '../errors.js'
import type { Settings } from '../options.js'
import type { Keys, Owner, SessionKey } from '../store/keys.js'
import type { LocalSessions } from '../store/local-sessions.js'
import { SessionFields } from '../store/session-fields.js'
import { encode, type SessionRecord, type SessionRecords } from '../store/session-records.js'
import { type Changes, NO_CHANGES, type ReplaceResult, type SessionStore } from '../store/session-store.js'
import type { SessionToken, SessionTokens } from '../store/token.js'
import type { Devices } from '../users/devices.js'
import type { RevocationPublisher } from './revocation-publisher.js'
import { assertStorable } from './schema.js'
import type { SessionLoader } from './session-loader.js'
import type { SessionState } from './session-state.js'
import type { StoreErrors } from './store-errors.js'

export interface LifecycleParts {
  readonly store: SessionStore
  readonly records: SessionRecords
  readonly keys: Keys
  readonly devices: Devices
  readonly tokens: SessionTokens
  readonly loader: SessionLoader
  readonly local: LocalSessions | undefined
  readonly errors: StoreErrors
  readonly publisher: RevocationPublisher
  readonly settings: Settings
  /** Work that no caller waits for, to be finished before the app closes. */
  readonly later: (work: Promise<unknown>) => void
}

/** What a login decides for its session alone. */
export interface LoginChoices {
  readonly label: string | undefined
  readonly idleTimeout: number | undefined
  readonly absoluteTimeout: number | undefined
  readonly persistent: boolean | undefined
}

type Texts = ReadonlyMap<string, string>

/** The part of a session's data that goes with it to its successor. */
type Pick = (fields: SessionFields) => SessionFields

/** Whose session it becomes. */
interface Binding {
  readonly id: string
  readonly owner: Owner
  readonly choices: LoginChoices
}

// A browser that never stops writing must not keep its own login waiting.
const PATIENT_TRIES = 5
const RENEW_TRIES = 5

/** What begins, replaces and ends sessions: creation, login, logout, regeneration, renewal. */
export class SessionLifecycle {
  readonly #parts: LifecycleParts

  constructor(parts: LifecycleParts) {
    this.#parts = parts
  }

  async create(state: SessionState): Promise<void> {
    const changes = state.fields.changes()
    await assertStorable(state.fields, changes ?? NO_CHANGES, this.#parts.settings)
    const token = state.reserve(() => this.#parts.tokens.issue())
    this.#adopt(state, await this.#open(state, token, changes?.set ?? []), state.fields)
    if (changes) state.fields.saved(changes)
  }

  async login(state: SessionState, userId: string, choices: LoginChoices): Promise<void> {
    const owner = this.#parts.keys.owners(userId)[0]!
    // What one user left behind is not for the next.
    const keeps = state.userId === undefined || state.userId === userId
    const pick: Pick = keeps ? (fields) => fields : (fields) => fields.only([])
    await this.#replace(state, pick, { id: userId, owner, choices })
  }

  /**
   * The user has proved again who it is. The verifier is renewed first (OWASP: a new id at each change of privilege), so a failure on the
   * way leaves the session without the proof.
   * @returns false if the session has ended
   */
  async reauthenticated(state: SessionState): Promise<boolean> {
    const { errors, store, local, publisher } = this.#parts
    // Busy: other requests are renewing it, and that is as good.
    if ((await this.renew(state)) === 'ended') return false
    const record = state.record!
    const now = await errors.ask('save', () => store.authenticate(record.key))
    if (now === undefined) return false
    local?.drop(record.key.ref)
    state.writtenAt = now
    state.record = { ...record, meta: { ...record.meta, authenticatedAt: now } }
    await publisher.changed(record.key.ref)
    return true
  }

  /** Ends the session in the store and everywhere. */
  async end(state: SessionState): Promise<void> {
    const { record } = state
    if (record) await this.#endRecord(state, record)
    if (record || (state.presented && state.phase !== 'degraded')) state.cookie = 'clear'
    state.none()
    if (record) await this.waitForReplicas(record.key)
  }

  /** Ends the session; a new one without a user begins, with the values of `keep` only. */
  async regenerate(state: SessionState, keep: readonly string[]): Promise<void> {
    const { fields } = state
    // What this request has read may lack what another one has written since: only the store knows whether there is something to keep.
    if (state.record && keep.length > 0) {
      await this.#replace(state, (present) => present.only(keep))
    } else {
      const kept = state.record ? undefined : fields.only(keep)
      await this.end(state)
      if (kept) state.fields = kept
    }
    fields.freeze()
  }

  /**
   * The same session under a new verifier.
   * @param immediate the previous one is void at once; else it is valid until its successor has been presented and the grace is over
   * @returns `ended`: nothing has changed; `busy`: other requests renewed it at each try
   */
  async renew(state: SessionState, immediate = false): Promise<'renewed' | 'ended' | 'busy'> {
    const { errors, records, local, publisher } = this.#parts
    for (let attempt = 0; attempt < RENEW_TRIES; attempt++) {
      const record = state.record!
      if (!state.token) return 'busy'
      const from = { ...record, token: state.token }
      const renewed = await errors.ask('renew', () => records.renew(from, immediate))
      if (renewed.status === 'ended') return 'ended'
      local?.drop(record.key.ref)
      state.token = renewed.token
      if (renewed.status === 'renewed') {
        channels.renewed.publish({ ref: record.key.ref })
        await publisher.changed(record.key.ref)
        // A failover must not take back what the browser holds: until replicas have it, the previous one does as well.
        if (immediate || (await this.#isDurable(record.key))) state.cookie = 'set'
        return 'renewed'
      }
      if (renewed.token && renewed.token !== state.presented) state.cookie = 'set'
      if (!immediate) return 'renewed'
    }
    return 'busy'
  }

  /** Whether the browser's cookie can go: its session has ended, and no other one is taking its place. False if the store is away. */
  async isGone(token: SessionToken): Promise<boolean> {
    try {
      const fields = await this.#parts.store.read({ ...token, userHash: undefined })
      return Object.keys(fields).length === 0
    } catch {
      return false
    }
  }

  /** Waits for the replicas, if `durable` is on. @throws FLOTILLA_SESSION_ERR_NOT_DURABLE */
  async waitForReplicas(of: Owner | SessionKey): Promise<void> {
    const { settings, store, errors } = this.#parts
    if (!settings.durable) return
    try {
      await store.waitForReplicas(of, settings.durable)
    } catch (cause) {
      throw Object.assign(errors.withRetryAfter(new ERR_NOT_DURABLE()), { cause })
    }
  }

  async #isDurable(key: SessionKey): Promise<boolean> {
    try {
      await this.waitForReplicas(key)
      return true
    } catch {
      return false
    }
  }

  /** Opens a session in the store; the state knows nothing of it yet. */
  async #open(
    state: SessionState,
    token: SessionToken,
    set: Changes['set'],
    user?: Binding
  ): Promise<SessionRecord> {
    const { errors, records, devices, settings } = this.#parts
    const { choices, owner, id: userId } = user ?? {}
    // Data that a newer instance wrote is of its shape under a new id too.
    const version = Math.max(settings.version, set.length > 0 ? (state.record?.meta.version ?? 0) : 0)
    const absoluteTimeout = choices?.absoluteTimeout ?? settings.absoluteTimeout
    const idleTimeout = choices?.idleTimeout ?? 0
    const persistent = choices?.persistent
    const { result, codec, key } = await errors.ask('create', () =>
      records.create(token, owner?.userHash, {
        userId,
        changes: { set, remove: [] },
        device: owner ? devices.write(owner, token.ref, state.visitor, choices?.label) : '',
        version,
        absoluteTimeout,
        idleTimeout,
        persistent,
        limit: owner && settings.maxPerUser,
        replaces: state.record?.key.ref
      })
    )
    if ('refused' in result) throw new ERR_TOO_MANY(detail(`maxPerUser.max is ${settings.maxPerUser!.max}`))
    await this.#announceEnded(result.ended, userId)
    const { now } = result
    const meta = {
      createdAt: now,
      absoluteAt: now + absoluteTimeout,
      touchedAt: now,
      renewedAt: now,
      authenticatedAt: userId === undefined ? 0 : now,
      revision: 1,
      version,
      idleTimeout,
      persistent,
      userHash: owner?.userHash
    }
    return { key, token, presented: true, meta, userId, fields: {}, codec }
  }

  #adopt(state: SessionState, record: SessionRecord, fields: SessionFields): void {
    const { meta, userId, key } = record
    if (state.phase === 'live') state.none()
    state.live(record, fields)
    state.writtenAt = meta.createdAt
    state.cookie = 'set'
    state.stale = false
    if (channels.created.active)
      channels.created.publish(userId === undefined ? { ref: key.ref } : { ref: key.ref, userId })
  }

  async #announceEnded(refs: readonly string[], userId: string | undefined): Promise<void> {
    for (const ref of refs) this.#parts.local?.drop(ref)
    await this.#parts.publisher.revoked(refs, userId)
  }

  /** @param ended false if it had ended already: then that end was announced */
  async #announceEnd({ key, userId }: SessionRecord, ended: boolean): Promise<void> {
    this.#parts.local?.drop(key.ref)
    await this.#parts.publisher.revoked([key.ref], userId, !ended)
  }

  async #endRecord(state: SessionState, record: SessionRecord): Promise<void> {
    const { errors, store, loader } = this.#parts
    let ended = true
    try {
      ended = await errors.ask('end', () => store.end(record.key))
    } catch (error) {
      // Unreadable, and gone with that: all that was wanted.
      if (!loader.dropUnreadable(state, error)) throw error
    }
    await this.#announceEnd(record, ended)
  }

  /** Goes on under a new selector, with some of the data and perhaps for a user; the session before ends. */
  async #replace(state: SessionState, pick: Pick, user?: Binding): Promise<void> {
    const { settings, tokens, later, store } = this.#parts
    const before = state.record
    const picked = pick(state.fields)
    const was = picked.snapshot()
    const whole = new SessionFields(Object.fromEntries(was))
    // After a regeneration the handler may still add what the schema wants.
    await assertStorable(whole, NO_CHANGES, user ? settings : { ...settings, schema: undefined })

    const token = tokens.issue(user?.owner.tag)
    const key: SessionKey = { tag: token.tag, ref: token.ref, userHash: user?.owner.userHash }
    let opened: SessionRecord
    let fields: SessionFields
    try {
      opened = await this.#open(state, token, [...was], user)
      if (user) await this.waitForReplicas(key)
      const texts = before ? await this.#endReplaced(state, opened, pick) : was
      fields = SessionFields.from(texts, picked, was)
    } catch (error) {
      // No browser will ever have it, and it must not stay among the user's devices.
      later(store.end(key))
      throw error
    }
    if (!user && fields.keys().length === 0) {
      // Nothing was there to be kept.
      later(store.end(key))
      state.none()
      state.cookie = 'clear'
    } else {
      this.#adopt(state, opened, fields)
    }
    if (!before && state.presented && state.stale)
      later(store.markReplaced({ tag: state.presented.tag, ref: state.presented.ref, userHash: undefined }))
    if (before) await this.waitForReplicas(before.key)
  }

  /**
   * Ends the session that another one replaces, once that one holds everything: a failure on the way leaves the old one as it was.
   * @returns what the new one holds
   */
  async #endReplaced(state: SessionState, next: SessionRecord, pick: Pick): Promise<Texts> {
    const { errors, store, records, loader } = this.#parts
    const before = state.record!
    const picked = pick(state.fields)
    const own = picked.changes()
    let held: Texts = picked.snapshot()
    let known = before
    let ended = true
    for (let attempt = 1; ; attempt++) {
      const revision = attempt > PATIENT_TRIES ? undefined : known.meta.revision
      let result: ReplaceResult = { status: 'ended' }
      try {
        result = await errors.ask('end', () => store.replace(before.key, revision))
        ended = result.status !== 'ended'
      } catch (error) {
        if (!loader.dropUnreadable(state, error)) throw error
      }
      // What the new one holds is what was known.
      if (result.status === 'repeated') break
      const now = 'fields' in result ? records.again(before, result.fields) : undefined
      const wanted = withChanges(now && pick(loader.fieldsOf(now)), own)
      const changes = difference(held, wanted)
      if (changes) {
        const encoded = { set: encode(next.codec, changes.set), remove: changes.remove }
        const saved = await errors.ask('save', () => store.save(next.key, encoded))
        if (saved === undefined) throw new ERR_GONE()
        held = wanted
      }
      if (result.status !== 'changed') break
      known = now!
    }
    await this.#announceEnd(before, ended)
    return held
  }
}

/** What a session holds with what this request changed. */
function withChanges(fields: SessionFields | undefined, own: Changes | undefined): Texts {
  const texts = fields ? fields.snapshot() : new Map<string, string>()
  for (const [field, text] of own?.set ?? []) texts.set(field, text)
  for (const field of own?.remove ?? []) texts.delete(field)
  return texts
}

function difference(from: Texts, to: Texts): Changes | undefined {
  const set = [...to].filter(([field, text]) => from.get(field) !== text)
  const remove = [...from.keys()].filter((field) => !to.has(field))
  return set.length > 0 || remove.length > 0 ? { set, remove } : undefined
}
