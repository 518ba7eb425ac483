import type { FastifyBaseLogger } from 'fastify'
import type { Announcer } from './revocation-publisher.js'
import { channels } from '../diagnostics.js'
import type { RedisClock } from '../store/clock.js'
import { ERR_CONFLICT, ERR_GONE } from '../errors.js'
import type { FieldCodec } from '../store/field-codec.js'
import { createKeyedQueue } from './keyed-queue.js'
import type { LocalSessions } from '../store/local-sessions.js'
import { fieldOf } from '../store/meta.js'
import type { Settings } from '../options.js'
import type { Outage } from './store-errors.js'
import { assertStorable, validate } from './schema.js'
import { assertKey, assertReadable, serialise } from '../store/session-fields.js'
import type { SessionState } from './session-state.js'
import { NO_CHANGES, type Changes, type SessionStore } from '../store/store.js'

/** Writes what a request changed. */
export interface SessionWriter {
  /** What there is to write, computed once for {@link commit}. @throws FLOTILLA_SESSION_ERR_UNSERIALISABLE */
  pending(state: SessionState): Changes | undefined
  /** Saves changes, opening a session where there is none yet. @throws the coded error */
  commit(state: SessionState, changes: Changes): Promise<void>
  /** Compare-and-set of one key, repeated until it holds. @returns the new value */
  update(state: SessionState, key: string, change: (value: unknown) => unknown): Promise<unknown>
  /** Moves the idle deadline. @throws FLOTILLA_SESSION_ERR_UNAVAILABLE */
  touch(state: SessionState): Promise<void>
  /** The same after the response, when nobody is left to be told. Never rejects. */
  touchLater(state: SessionState): Promise<void>
  touchDue(state: SessionState): boolean
  /** The session ended while this request had it: what it wanted to write is not written, and nothing comes back. */
  refused(state: SessionState): void
}

export interface WriterParts {
  readonly store: SessionStore
  readonly codec: FieldCodec
  readonly local: LocalSessions | undefined
  readonly outage: Outage
  readonly clock: RedisClock
  readonly announcer: Announcer
  readonly settings: Settings
  readonly log: FastifyBaseLogger
  /** Opens a session for a state that has none. */
  readonly create: (state: SessionState) => Promise<void>
}

const ATTEMPTS = 200

export function createWriter(parts: WriterParts): SessionWriter {
  const { store, codec, local, outage, clock, announcer, settings, log } = parts
  const queue = createKeyedQueue()
  const touching = new Set<string>()

  const refused = (state: SessionState): void => {
    const ref = state.found!.meta.ref
    log.info({ ref }, 'a session ended while a request was using it; nothing was written')
    channels.refused.publish({ ref })
    local?.drop(ref)
    state.gone()
  }

  const written = async (
    state: SessionState,
    fields: number,
    now: number,
    durationMs: number
  ): Promise<void> => {
    const { ref } = state.found!.meta
    state.writtenAt = now
    local?.drop(ref)
    if (state.place!.ticket !== state.found!.ticket) state.cookie = 'set'
    if (channels.saved.active) channels.saved.publish({ ref, fields, durationMs })
    if (fields > 0) await announcer.changed(ref)
  }

  const commit = async (state: SessionState, changes: Changes): Promise<void> => {
    if (state.phase === 'none') return await parts.create(state)
    await assertStorable(state.fields, changes, settings)
    const started = performance.now()
    const now = await outage.ask('save', () => store.save(state.place!, changes))
    if (now === undefined) return refused(state)
    const took = performance.now() - started
    state.fields.saved(changes)
    await written(state, changes.set.length + changes.remove.length, now, took)
  }

  const pending = (state: SessionState): Changes | undefined => {
    if ((state.phase !== 'live' && state.phase !== 'none') || !state.hasFields) return undefined
    const changes = state.fields.changes()
    // Removing from nothing, or setting what is empty, opens no session.
    return state.phase === 'none' && changes?.set.length === 0 ? undefined : changes
  }

  const update = async (
    state: SessionState,
    key: string,
    change: (value: unknown) => unknown
  ): Promise<unknown> => {
    if (state.phase === 'none') {
      // Nobody else can know an id that has not been issued.
      state.fields.set(key, await change(state.fields.get(key)))
      return state.fields.get(key)
    }
    if (state.phase === 'live' && state.fields.changed(key)) await commit(state, pending(state)!)
    if (state.phase !== 'live') throw new ERR_GONE()
    const field = fieldOf(key)
    let took = 0
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      // Not what the handler holds: it may have been mutated.
      const expected = state.fields.storedText(key)
      const value = state.fields.fresh(key)
      const next = await change(value)
      const text = serialise(key, next)
      assertReadable(key, text)
      const entry = [field, text] as const
      state.fields.assertSize({ set: [entry], remove: [] }, settings.maxSize)
      if (settings.schema) {
        // With what else this request has changed, such as by a migration.
        const { set, remove } = state.fields.changes() ?? NO_CHANGES
        await validate(settings.schema, state.fields.preview({ set: [...set, entry], remove }))
      }
      const place = state.place!
      const started = performance.now()
      const result = await outage.ask('update', () => store.update(place, field, expected, text))
      took += performance.now() - started
      if (!result) {
        refused(state)
        throw new ERR_GONE()
      }
      if (result.written) {
        state.fields.adopt(key, result.stored, text)
        await written(state, 1, clock.now(), took)
        return state.fields.get(key)
      }
      const { stored } = result
      state.fields.adopt(
        key,
        stored,
        stored === undefined ? undefined : codec.decode(place.ticket, field, stored)
      )
    }
    throw new ERR_CONFLICT(`Session field '${key}'`, ATTEMPTS)
  }

  const touchDue = (state: SessionState): boolean => {
    if (state.phase !== 'live' || state.writtenAt > 0) return false
    const age = clock.now() - state.found!.meta.touchedAt
    // A time in the future means that this clock is wrong: touching also sets it right.
    return age >= settings.touchInterval || age < -1_000
  }

  /** False where the session is gone. */
  const moveDeadline = async (state: SessionState): Promise<boolean> => {
    const started = performance.now()
    const now = await outage.ask('touch', () => store.save(state.place!))
    if (now !== undefined) await written(state, 0, now, performance.now() - started)
    return now !== undefined
  }

  return {
    pending,
    commit,
    touchDue,
    refused,
    async touch(state) {
      if (!(await moveDeadline(state))) refused(state)
    },
    update(state, key, change) {
      assertKey(key)
      const run = (): Promise<unknown> => update(state, key, change)
      // A session that is new is this request's alone: it must not wait for other visitors' new sessions.
      return state.place ? queue.run(`${state.place.ticket.hash}\n${key}`, run) : state.updates.run(key, run)
    },

    async touchLater(state) {
      const { hash } = state.place!.ticket
      const { ref } = state.found!.meta
      if (touching.has(hash)) return
      touching.add(hash)
      try {
        if (!(await moveDeadline(state))) local?.drop(ref)
      } catch (err) {
        // The request has been answered; the next one tries again.
        log.debug({ err }, 'a session could not be touched')
      } finally {
        touching.delete(hash)
      }
    }
  }
}
