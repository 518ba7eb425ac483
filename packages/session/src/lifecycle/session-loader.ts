import type { FastifyBaseLogger } from 'fastify'
import { channels } from '../diagnostics.js'
import { ERR_INVALID_DATA } from '../errors.js'
import type { Settings } from '../options.js'
import type { LocalSessions } from '../store/local-sessions.js'
import { SessionFields } from '../store/session-fields.js'
import {
  CorruptSession,
  type Loaded,
  type SessionRecord,
  type SessionRecords
} from '../store/session-records.js'
import type { SessionToken } from '../store/token.js'
import type { RevocationPublisher } from './revocation-publisher.js'
import { validate } from './schema.js'
import type { SessionState } from './session-state.js'
import type { StoreErrors } from './store-errors.js'

export interface LoaderParts {
  readonly records: SessionRecords
  readonly local: LocalSessions | undefined
  readonly errors: StoreErrors
  readonly publisher: RevocationPublisher
  readonly settings: Settings
  readonly log: FastifyBaseLogger
  /** Removes what cannot be read, in the background. */
  readonly remove: (token: SessionToken) => void
}

/** Brings a presented session into a request. */
export class SessionLoader {
  readonly #parts: LoaderParts

  constructor(parts: LoaderParts) {
    this.#parts = parts
  }

  fieldsOf({ fields, codec }: SessionRecord): SessionFields {
    return new SessionFields(fields, codec.wrapFor ? codec : undefined)
  }

  /** From memory, at once, if possible: then the state is ready. */
  openHeld(state: SessionState): boolean {
    const record = this.#parts.local?.get(state.presented!)
    if (!record || this.#needsMigration(record)) return false
    this.#accept(state, record)
    if (channels.loaded.active) channels.loaded.publish({ source: 'memory', found: true })
    return true
  }

  /**
   * @param again to read that one, from the store in any case
   * @throws FLOTILLA_SESSION_ERR_UNAVAILABLE if the store is away and `onOutage` is `'fail'`
   */
  async open(state: SessionState, again?: SessionToken): Promise<void> {
    const token = again ?? state.presented!
    const { local } = this.#parts
    const held = again ? undefined : local?.get(token)
    const keep = held ? undefined : local?.begin(token.ref)
    let record = held
    try {
      if (held) {
        if (channels.loaded.active) channels.loaded.publish({ source: 'memory', found: true })
      } else {
        record = await this.#read(state, token)
      }
      if (!record) return
      this.#accept(state, record)
      if (this.#needsMigration(record)) await this.#migrate(state, record)
    } catch (cause) {
      record = undefined
      this.#fail(state, cause)
    } finally {
      keep?.(record)
    }
  }

  /**
   * A session turned out to be unreadable: the request goes on without one, and it is removed.
   * @returns false if the error is another one
   */
  dropUnreadable(state: SessionState, error: unknown): boolean {
    const token = state.record?.token ?? state.presented
    if (!(error instanceof CorruptSession) || !token) return false
    const { log, local, remove } = this.#parts
    log.error({ err: error, ref: token.ref }, 'a session that cannot be read was dropped')
    channels.dropped.publish({ ref: token.ref, reason: error.message })
    local?.drop(token.ref)
    state.none()
    remove(token)
    return true
  }

  #fail(state: SessionState, cause: unknown): void {
    const { errors, settings } = this.#parts
    const error = errors.explain('load', cause)
    if (this.dropUnreadable(state, error)) return
    if (settings.onOutage === 'anonymous' && (error as { statusCode?: number }).statusCode === 503) {
      state.none()
      state.phase = 'degraded'
      return
    }
    throw state.refuse(error)
  }

  async #read(state: SessionState, token: SessionToken): Promise<SessionRecord | undefined> {
    const started = channels.loaded.active ? performance.now() : 0
    const loaded = await this.#parts.records.load(token)
    const found = !('status' in loaded)
    if (started) channels.loaded.publish({ source: 'redis', found, durationMs: performance.now() - started })
    if (found) return loaded
    state.none()
    // Whatever is not certain leaves the browser's cookie as it is.
    state.stale =
      loaded.status === 'ended' || (loaded.status === 'reused' && this.#parts.settings.onReuse === 'end')
    await this.#reportReuse(loaded)
    return undefined
  }

  async #reportReuse(loaded: Exclude<Loaded, SessionRecord>): Promise<void> {
    if (loaded.status !== 'reused' && loaded.status !== 'void') return
    const { settings, log, local, publisher } = this.#parts
    const { ref } = loaded.key
    const ended = loaded.status === 'reused' && settings.onReuse === 'end'
    if (loaded.status === 'reused')
      log.warn(
        { ref, ended },
        'a session cookie was presented whose successor is in use: a copy of it was stolen, or replayed'
      )
    channels.reused.publish({ ref, reason: loaded.status, ended })
    if (!ended) return
    local?.drop(ref)
    await publisher.revoked([ref], undefined)
  }

  #accept(state: SessionState, record: SessionRecord): void {
    state.live(record, this.fieldsOf(record))
    // The token before, or signed by an older secret: the browser is given the present value.
    if (record.token.value !== state.presented?.value || record.token.outdated) state.cookie = 'set'
  }

  #needsMigration({ meta }: SessionRecord): boolean {
    const { schema, migrate, version } = this.#parts.settings
    return schema !== undefined || (migrate !== undefined && meta.version < version)
  }

  /**
   * Brings old data up to date and validates. Data of a newer version is left to newer instances: as a whole if it
   * is not understood here, else in the keys that the schema here does not know and leaves out.
   */
  async #migrate(state: SessionState, record: SessionRecord): Promise<void> {
    const { schema, version, migrate } = this.#parts.settings
    const stored = record.meta.version
    try {
      let { data } = state.fields
      if (migrate && stored < version) data = (await migrate({ ...data }, stored)) as Record<string, unknown>
      if (schema) data = await validate(schema, data)
      if (data === state.fields.data) return
      if (stored > version) state.fields.merge(data)
      else state.fields.replace(data)
    } catch (cause) {
      if (stored <= version) throw new CorruptSession(`its data is not valid: ${reasonOf(cause)}`, { cause })
      this.#parts.log.warn(
        { err: cause, ref: record.key.ref, stored, version },
        'a session of a newer version is not understood here'
      )
      state.none()
      state.cookie = 'keep'
      state.phase = 'degraded'
    }
  }
}

/** What `migrate` or the schema says of the data. */
function reasonOf(error: unknown): string {
  const { message, cause } = error as Error
  return error instanceof ERR_INVALID_DATA ? (cause as Error).message : message
}
