import type { FastifyBaseLogger } from 'fastify'
import { channels } from '../diagnostics.js'
import { detail, ERR_CONFLICT, ERR_GONE } from '../errors.js'
import type { Settings } from '../options.js'
import type { RedisClock } from '../store/clock.js'
import type { SessionKey } from '../store/keys.js'
import type { LocalSessions } from '../store/local-sessions.js'
import { fieldOf } from '../store/meta.js'
import { assertKey, assertReadable, serialise } from '../store/session-fields.js'
import { encode } from '../store/session-records.js'
import { type Changes, NO_CHANGES, type SessionStore } from '../store/session-store.js'
import { KeyedQueue } from './keyed-queue.js'
import type { RevocationPublisher } from './revocation-publisher.js'
import { assertStorable, validate } from './schema.js'
import type { SessionState } from './session-state.js'
import type { StoreErrors } from './store-errors.js'

export interface WriterParts {
  readonly store: SessionStore
  readonly local: LocalSessions | undefined
  readonly errors: StoreErrors
  readonly clock: RedisClock
  readonly publisher: RevocationPublisher
  readonly settings: Settings
  readonly log: FastifyBaseLogger
}

interface Written {
  readonly fields: number
  /** The store's time. */
  readonly now: number
  /** Milliseconds. */
  readonly took: number
}

const ATTEMPTS = 200

/** Writes what a request changed to a session that is in the store. */
export class SessionWriter {
  readonly #parts: WriterParts
  readonly #queue = new KeyedQueue()
  readonly #touching = new Set<string>()

  constructor(parts: WriterParts) {
    this.#parts = parts
  }

  /** What there is to write. @throws FLOTILLA_SESSION_ERR_UNSERIALISABLE */
  pending(state: SessionState): Changes | undefined {
    if ((state.phase !== 'live' && state.phase !== 'none') || !state.hasFields) return undefined
    const changes = state.fields.changes()
    // Removing from nothing, or setting what is empty, opens no session.
    return state.phase === 'none' && changes?.set.length === 0 ? undefined : changes
  }

  /** Saves changes. @throws the coded error */
  async save(state: SessionState, changes: Changes): Promise<void> {
    const { errors, store, settings } = this.#parts
    await assertStorable(state.fields, changes, settings)
    const { fields } = state
    const { key, codec } = state.record!
    const encoded = { set: encode(codec, changes.set), remove: changes.remove }
    const started = performance.now()
    const now = await errors.ask('save', () => store.save(key, encoded))
    if (now === undefined) return this.refused(state, key)
    const took = performance.now() - started
    fields.saved(changes)
    await this.#written(state, key, { fields: changes.set.length + changes.remove.length, now, took })
  }

  /** Compare-and-set of one key, repeated until it holds. @returns the new value */
  update(state: SessionState, key: string, change: (value: unknown) => unknown): Promise<unknown> {
    assertKey(key)
    // A session that is new is this request's alone: it must not wait for other visitors' new sessions.
    return state.record
      ? this.#queue.run(`${state.record.key.ref}\n${key}`, () => this.#update(state, key, change))
      : state.updates.run(key, () => this.#update(state, key, change))
  }

  /** Moves the idle deadline. @throws FLOTILLA_SESSION_ERR_UNAVAILABLE */
  async touch(state: SessionState): Promise<void> {
    const { key } = state.record!
    if (!(await this.#moveDeadline(state))) this.refused(state, key)
  }

  /** The same after the response. Never rejects. */
  async touchLater(state: SessionState): Promise<void> {
    const { ref } = state.record!.key
    if (this.#touching.has(ref)) return
    this.#touching.add(ref)
    try {
      if (!(await this.#moveDeadline(state))) this.#parts.local?.drop(ref)
    } catch (err) {
      // The request has been answered; the next one tries again.
      this.#parts.log.debug({ err }, 'a session could not be touched')
    } finally {
      this.#touching.delete(ref)
    }
  }

  touchDue(state: SessionState): boolean {
    if (state.phase !== 'live' || state.writtenAt > 0) return false
    const { clock, settings } = this.#parts
    const { touchedAt, idleTimeout } = state.record!.meta
    const age = clock.now() - touchedAt
    // A time in the future means that this clock is wrong: touching also sets it right.
    return age >= Math.min(settings.touchInterval, idleTimeout / 2 || Infinity) || age < -1_000
  }

  /** The session ended while this request had it: what it wanted to write is not written, and nothing comes back. */
  refused(state: SessionState, { ref }: SessionKey): void {
    this.#parts.log.info({ ref }, 'a session ended while a request was using it; nothing was written')
    channels.refused.publish({ ref })
    this.#parts.local?.drop(ref)
    if (state.record?.key.ref === ref) state.ended()
  }

  async #update(state: SessionState, key: string, change: (value: unknown) => unknown): Promise<unknown> {
    if (state.phase === 'none') {
      // No other request can know an id that has not been issued.
      state.fields.set(key, await change(state.fields.get(key)))
      return state.fields.get(key)
    }
    if (state.phase === 'live' && state.fields.changed(key)) await this.save(state, this.pending(state)!)
    let took = 0
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if (state.phase !== 'live') throw new ERR_GONE()
      const { codec, key: at } = state.record!
      const field = fieldOf(key)
      // Not what the handler holds: it may have been mutated.
      const expected = state.fields.storedText(key)
      const text = await this.#nextText(state, key, change)
      const next = codec.encode(field, text)
      const started = performance.now()
      const { errors, store } = this.#parts
      const result = await errors.ask('update', () => store.update(at, { field, expected, next }))
      took += performance.now() - started
      if (!result) {
        this.refused(state, at)
        throw new ERR_GONE()
      }
      const { stored } = result
      if (result.written) {
        state.fields.adopt(key, stored, text)
        await this.#written(state, at, { fields: 1, now: result.now, took })
        return state.fields.get(key)
      }
      state.fields.adopt(key, stored, stored === undefined ? undefined : codec.decode(field, stored))
    }
    throw new ERR_CONFLICT(detail(`field '${key}' changed ${ATTEMPTS} times`))
  }

  async #nextText(state: SessionState, key: string, change: (value: unknown) => unknown): Promise<string> {
    const { settings } = this.#parts
    const text = serialise(key, await change(state.fields.fresh(key)))
    assertReadable(key, text)
    const entry = [fieldOf(key), text] as const
    state.fields.assertSize({ set: [entry], remove: [] }, settings.maxSize)
    if (settings.schema) {
      // With what else this request has changed, such as by a migration.
      const { set, remove } = state.fields.changes() ?? NO_CHANGES
      await validate(settings.schema, state.fields.preview({ set: [...set, entry], remove }))
    }
    return text
  }

  async #written(state: SessionState, { ref }: SessionKey, { fields, now, took }: Written): Promise<void> {
    state.writtenAt = now
    this.#parts.local?.drop(ref)
    if (channels.saved.active) channels.saved.publish({ ref, fields, durationMs: took })
    if (fields > 0) await this.#parts.publisher.changed(ref)
  }

  /** False if the session has ended. */
  async #moveDeadline(state: SessionState): Promise<boolean> {
    const { errors, store } = this.#parts
    const { key } = state.record!
    const started = performance.now()
    const now = await errors.ask('touch', () => store.save(key, NO_CHANGES))
    if (now !== undefined)
      await this.#written(state, key, { fields: 0, now, took: performance.now() - started })
    return now !== undefined
  }
}
