import type { Owner, SessionKey } from './keys.js'

/** Field name → stored text; the plugin's own fields begin with `@`. */
export type StoredFields = Readonly<Record<string, string>>

/** What to write: texts by field name. */
export interface Changes {
  readonly set: readonly (readonly [field: string, text: string])[]
  readonly remove: readonly string[]
}

/** Nothing to write: what moves only the deadline. */
export const NO_CHANGES: Changes = { set: [], remove: [] }

/** A session to open. */
export interface CreateInput {
  readonly absoluteTimeout: number
  /** This session's own, or 0. */
  readonly idleTimeout: number
  /** This session's own, or `undefined`. */
  readonly persistent: boolean | undefined
  /** Of the shape of its data. */
  readonly version: number
  readonly verifierHash: string
  /** Shown on a page of "your devices". */
  readonly device: string
  readonly fields: readonly (readonly [field: string, text: string])[]
  /** How many sessions the user may have, and what happens to a further one. */
  readonly limit: { readonly max: number; readonly endOldest: boolean } | undefined
  /** The reference of the session that this one is about to replace: it does not count. */
  readonly replaces: string | undefined
}

/** `refused`: the user has as many sessions as are allowed. */
export type CreateResult =
  | { readonly now: number; readonly ended: readonly string[] }
  | { readonly refused: true; readonly now: number }

/**
 * What a token is to the session that it names.
 * `current`: the present one. `previous`: the one before, still valid. `void`: voided by an immediate renewal, or of a renewal that the store lost. `reused`: its
 * successor is in use, and the grace is over. `ended`: there is no such session.
 */
export type TokenStatus = 'current' | 'previous' | 'void' | 'reused' | 'ended'

export interface PresentInput {
  readonly generation: number
  readonly verifierHash: string
  /** Milliseconds for which the previous verifier stays valid from the first time that its successor is presented. */
  readonly grace: number
  /** Whether a reused token ends the session. */
  readonly endReused: boolean
  /** Whether a token of a later generation than the store knows may take over. */
  readonly adopt: boolean
}

export interface PresentResult {
  readonly status: TokenStatus
  readonly now: number
  /** What the session holds, if the token opens it. */
  readonly fields: StoredFields
}

export interface RenewInput {
  /** The generation to replace. */
  readonly generation: number
  readonly verifierHash: string
  /** For clients that never get the new one; none: the previous verifier is void at once. */
  readonly successor: string | undefined
  readonly dataKey: string | undefined
}

/** `raced`: the session is not of the expected generation any more. `recent`: the verifier before the present one is still valid. */
export type RenewResult =
  | { readonly status: 'renewed'; readonly now: number }
  | { readonly status: 'raced'; readonly generation: number; readonly successor: string | undefined }
  | { readonly status: 'ended' }
  | { readonly status: 'recent' }

/** `stored` is the field's text as the store now holds it: what was written, or what stood in the way. */
export type UpdateResult =
  | { readonly written: boolean; readonly stored: string | undefined; readonly now: number }
  | undefined

export interface UpdateInput {
  readonly field: string
  /** The text as stored. */
  readonly expected: string | undefined
  readonly next: string
}

/**
 * `ended`: gone before. `repeated`: the call was sent again, as its first reply was lost; that one ended the session as it was known.
 * `changed`: written to meanwhile, and left as it is.
 */
export type ReplaceResult =
  | { readonly status: 'replaced' | 'changed'; readonly fields: StoredFields }
  | { readonly status: 'ended' | 'repeated' }

/** One of a user's sessions in the index. */
export interface IndexEntry {
  readonly ref: string
  readonly expiresAt: number
  /** `undefined` if they cannot be read. */
  readonly createdAt: number | undefined
  readonly seenAt: number | undefined
  readonly device: string
}

/**
 * Where sessions live. Fields are opaque texts here. Times are milliseconds since 1970 by the store's own clock, which alone decides when a
 * session ends. Every operation is atomic, and none but `create` brings a session into being: nothing that has ended comes back.
 */
export interface SessionStore {
  /** All fields, none if there is no session. */
  read(key: SessionKey): Promise<StoredFields>
  /** Decides what a token is worth, by the store's clock, and notes that it was presented. */
  present(key: SessionKey, input: PresentInput): Promise<PresentResult>
  create(key: SessionKey, input: CreateInput): Promise<CreateResult>
  /** Without changes: moves the idle deadline. @returns the store's time, `undefined` if the session has ended */
  save(key: SessionKey, changes: Changes): Promise<number | undefined>
  /** One try of compare-and-set. `undefined` if the session has ended. */
  update(key: SessionKey, input: UpdateInput): Promise<UpdateResult>
  renew(key: SessionKey, input: RenewInput): Promise<RenewResult>
  /** The user has proved again who it is. @returns the store's time, `undefined` if the session has ended */
  authenticate(key: SessionKey): Promise<number | undefined>
  /** @returns false if it had ended */
  end(key: SessionKey): Promise<boolean>
  /** Ends a session that another one replaces, if it was not written to since `revision`; `undefined`: in any case. */
  replace(key: SessionKey, revision: number | undefined): Promise<ReplaceResult>
  /** Removes what is under a session's key, whatever it is. */
  remove(key: SessionKey): Promise<void>
  /** Notes that a session that had ended was replaced by another one. */
  markReplaced(key: SessionKey): Promise<void>
  /** A user's sessions as the index has them; expired ones are forgotten. */
  list(owner: Owner): Promise<IndexEntry[]>
  /** Which of these sessions are there. */
  exist(keys: readonly SessionKey[]): Promise<boolean[]>
  /** Ends those of these sessions that are this user's. @returns the ones it ended */
  revoke(owner: Owner, refs: readonly string[]): Promise<string[]>
  /** Waits until replicas have what was written to the node of this session or user. */
  waitForReplicas(of: Owner | SessionKey, wanted: { replicas: number; timeout: number }): Promise<void>
}
