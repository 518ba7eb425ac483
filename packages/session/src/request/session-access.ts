import { ERR_GONE, ERR_NOT_LOADED } from '../errors.js'
import type { SessionLifecycle } from '../lifecycle/session-lifecycle.js'
import type { SessionLoader } from '../lifecycle/session-loader.js'
import type { SessionState } from '../lifecycle/session-state.js'
import type { SessionWriter } from '../lifecycle/session-writer.js'
import type { StoreErrors } from '../lifecycle/store-errors.js'
import type { Settings } from '../options.js'
import type { SessionTokens } from '../store/token.js'
import type { SessionCookie } from './cookie.js'
import { type Forgotten, Operations } from './operations.js'

/** What a session needs of the plugin. */
export interface SessionParts {
  readonly loader: SessionLoader
  readonly writer: SessionWriter
  readonly lifecycle: SessionLifecycle
  readonly tokens: SessionTokens
  readonly errors: StoreErrors
  readonly settings: Settings
  readonly cookie: SessionCookie
  /** Something was changed after the response had been sent. */
  readonly late: () => void
  readonly forgotten: Forgotten
}

export const kState = Symbol('flotilla.session.state')
export const kParts = Symbol('flotilla.session.parts')

/** Any session, whatever its data. */
export interface Inner {
  readonly [kState]: SessionState
  readonly [kParts]: SessionParts
}

export function readable({ [kState]: state }: Inner): SessionState {
  if (state.phase === 'lazy') throw new ERR_NOT_LOADED()
  return state
}

export function writable(session: Inner): SessionState {
  const state = readable(session)
  if (state.phase === 'degraded') throw state.refuse(session[kParts].errors.readOnly())
  if (state.response === 'past') session[kParts].late()
  return state
}

/** Called when an operation has ended, for code written for other session plugins. */
export type SessionCallback = (error?: unknown) => void

/** What the response waits for, even if the caller does not; `run` throws nothing but by its promise. */
export function operation<T>(
  { [kState]: state, [kParts]: parts }: Inner,
  name: string,
  run: () => Promise<T>,
  callback?: SessionCallback
): Promise<T> {
  let promise: Promise<T>
  if (state.response === 'ahead') {
    state.operations ??= new Operations(parts.forgotten)
    promise = state.operations.begin(name, run)
  } else {
    promise = run()
  }
  if (typeof callback === 'function') {
    // What a callback throws is the application's, as with any callback.
    promise.then(
      () => process.nextTick(callback),
      (error: unknown) => process.nextTick(callback, error)
    )
  }
  return promise
}

export async function load(session: Inner): Promise<void> {
  const state = session[kState]
  if (state.phase === 'lazy')
    state.loading ??= asking(session, () => session[kParts].loader.open(state)).finally(() => {
      state.loading = undefined
    })
  if (state.loading) await state.loading
}

export async function save(session: Inner): Promise<void> {
  const { writer, lifecycle } = session[kParts]
  const state = writable(session)
  const changes = writer.pending(state)
  if (!changes) return
  await asking(session, () =>
    state.phase === 'none' ? lifecycle.create(state) : writer.save(state, changes)
  )
}

export async function end(session: Inner): Promise<void> {
  await load(session)
  const state = writable(session)
  await asking(session, () => session[kParts].lifecycle.end(state))
}

export async function asking<T>(
  { [kState]: state, [kParts]: parts }: Inner,
  run: () => Promise<T>
): Promise<T> {
  try {
    return await run()
  } catch (error) {
    // Unreadable is as good as gone.
    throw parts.loader.dropUnreadable(state, error) ? new ERR_GONE() : state.refuse(error)
  }
}

/** A field that turns out to be unreadable ends the session, not the request. */
export function recover<T>(session: Inner, read: () => T, otherwise: T): T {
  const state = session[kState]
  try {
    return read()
  } catch (error) {
    if (!session[kParts].loader.dropUnreadable(state, error)) throw error
    return otherwise
  }
}

/** The state behind a session, for the plugin's own use. */
export function stateOf(session: Inner): SessionState {
  return session[kState]
}
