import type { FastifyBaseLogger } from 'fastify'
import { channels } from '../diagnostics.js'
import type { FieldCodec } from '../store/field-codec.js'
import type { LocalSessions } from '../store/local-sessions.js'
import type { Settings } from '../options.js'
import type { Outage } from './store-errors.js'
import { validate } from './schema.js'
import { SessionFields } from '../store/session-fields.js'
import type { SessionState } from './session-state.js'
import { CorruptSession, type Found, type SessionStore } from '../store/store.js'
import type { Ticket } from '../store/token.js'

/** Brings a presented session into a request. */
export interface SessionReader {
  /** From memory, at once, where that is possible: then the state is ready. */
  openHeld(state: SessionState): boolean
  /**
   * @param ticket to read that one, from Redis in any case
   * @throws FLOTILLA_SESSION_ERR_UNAVAILABLE where Redis is away and `onOutage` is `'fail'`
   */
  open(state: SessionState, ticket?: Ticket): Promise<void>
  /**
   * A session turned out to be unreadable: the request goes on without one, and it is removed.
   * @returns false where the error says something else
   */
  drop(state: SessionState, error: unknown): boolean
  fieldsOf(found: Found): SessionFields
}

export interface ReaderParts {
  readonly store: SessionStore
  readonly codec: FieldCodec
  readonly local: LocalSessions | undefined
  readonly outage: Outage
  readonly settings: Settings
  readonly log: FastifyBaseLogger
  /** Removes what cannot be read, in the background. */
  readonly discard: (ticket: Ticket) => void
}

export function createReader({
  store,
  codec,
  local,
  outage,
  settings,
  log,
  discard
}: ReaderParts): SessionReader {
  const { schema, version, migrate } = settings

  const fieldsOf = (found: Found): SessionFields =>
    codec.sealed
      ? new SessionFields(found.fields, {
          decode: (field, stored) => codec.decode(found.ticket, field, stored),
          sizeOf: (stored) => codec.sizeOf(stored)
        })
      : new SessionFields(found.fields)

  const giveUp = (state: SessionState, ticket: Ticket, error: CorruptSession): void => {
    const ref = state.found?.meta.ref ?? ticket.hash
    log.error({ err: error, ref }, 'a session that cannot be read was dropped')
    channels.dropped.publish({ ref, reason: error.message })
    local?.drop(ticket.hash)
    state.none()
    discard(ticket)
  }

  const admit = (state: SessionState, found: Found): void => {
    state.live(found, fieldsOf(found))
    // Led here by an alias, or signed by an older secret: the browser is to have the present value.
    if (found.ticket.value !== state.presented?.value || found.ticket.renew) state.cookie = 'set'
  }

  /**
   * Brings old data up to date and validates. Data of a newer version is left to newer instances: as a whole where it
   * is not understood here, else in the keys that the schema here does not know and leaves out.
   */
  const settle = async (state: SessionState, found: Found): Promise<void> => {
    const stored = found.meta.version
    try {
      let { data } = state.fields
      if (migrate && stored < version) data = (await migrate({ ...data }, stored)) as Record<string, unknown>
      if (schema) data = await validate(schema, data)
      if (data === state.fields.data) return
      if (stored > version) state.fields.merge(data)
      else state.fields.replace(data)
    } catch (cause) {
      if (stored > version) {
        log.warn(
          { err: cause, ref: found.meta.ref, stored, version },
          'a session of a newer version is not understood here'
        )
        state.none()
        state.phase = 'away'
        return
      }
      throw new CorruptSession(`its data is not valid: ${(cause as Error).message}`, { cause })
    }
  }
  const settles = (found: Found): boolean =>
    schema !== undefined || (migrate !== undefined && found.meta.version < version)

  return {
    fieldsOf,

    drop(state, error) {
      const ticket = state.place?.ticket ?? state.presented
      if (!(error instanceof CorruptSession) || !ticket) return false
      giveUp(state, ticket, error)
      return true
    },

    openHeld(state) {
      const found = local?.get(state.presented!.hash)
      if (!found || settles(found)) return false
      admit(state, found)
      if (channels.loaded.active) channels.loaded.publish({ source: 'memory', found: true })
      return true
    },

    async open(state, again) {
      const ticket = again ?? state.presented!
      const held = again ? undefined : local?.get(ticket.hash)
      const keep = held ? undefined : local?.begin(ticket.hash)
      let found = held
      try {
        if (held) {
          if (channels.loaded.active) channels.loaded.publish({ source: 'memory', found: true })
        } else {
          const started = channels.loaded.active ? performance.now() : 0
          found = await store.load(ticket)
          if (started)
            channels.loaded.publish({
              source: 'redis',
              found: found !== undefined,
              durationMs: performance.now() - started
            })
        }
        if (!found) {
          state.none()
        } else {
          admit(state, found)
          if (settles(found)) await settle(state, found)
        }
      } catch (cause) {
        found = undefined
        const error = outage.explain('load', cause)
        if (error instanceof CorruptSession) {
          giveUp(state, ticket, error)
        } else if (
          settings.onOutage === 'anonymous' &&
          (error as { statusCode?: number }).statusCode === 503
        ) {
          state.none()
          state.phase = 'away'
        } else {
          throw state.refuse(error)
        }
      } finally {
        keep?.(found)
      }
    }
  }
}
