/** The meta field of a session's hash: times by Redis's clock, in milliseconds since 1970. */
export interface Meta {
  readonly createdAt: number
  /** When the session ends whatever happens. */
  readonly absoluteAt: number
  /** Last write of the idle deadline. */
  readonly touchedAt: number
  /** Last time the verifier changed. */
  readonly renewedAt: number
  /** When the user proved who it is, 0 before login. */
  readonly authenticatedAt: number
  /** Counts writes. */
  readonly revision: number
  /** Version of the data's shape (option `version`). */
  readonly version: number
  /** This session's own idle timeout, or 0 for the one of the options. */
  readonly idleTimeout: number
  /** This session's own choice of a persistent cookie, or `undefined` for the one of the options. */
  readonly persistent: boolean | undefined
  /** HMAC of the user id, or `undefined` before login. */
  readonly userHash: string | undefined
}

/** The verifier field: which tokens open the session. */
export interface VerifierState {
  /** Counts renewals; a token carries the one that it was issued with. */
  readonly generation: number
  readonly hash: string
  /** Of the generation before, or `undefined`. */
  readonly previous: string | undefined
  /** False until a token of this generation has been presented. From then on the grace of the previous one runs. */
  readonly presented: boolean
}

/** Field names that begin with `@` are the plugin's; a user's key that does is stored with one `@` more. */
export const META = '@'
export const USER = '@u'
/** {@link VerifierState}. */
export const VERIFIER = '@v'
/** The present verifier, sealed under the previous one: what a client gets that never received it. */
export const SUCCESSOR = '@s'
/** With `encrypt`: the key of the data, sealed under the present verifier. */
export const DATA_KEY = '@k'
/** All that is left, for a while, of a session that another one has replaced. */
export const REPLACED = '@t'

const META_LAYOUT =
  /^2 (\d{1,16}) (\d{1,16}) (\d{1,16}) (\d{1,16}) (\d{1,16}) (\d{1,16}) (\d{1,9}) (\d{1,16}) ([-01]) ([\w-]{32}|-)$/
const VERIFIER_LAYOUT = /^(\d{1,15}) ([\w-]{43}) ([\w-]{43}|-) (\d{1,16}|-)$/

// ECMA-262 §21.4.1.1: no Date is later, and one that is cannot be printed.
export const LATEST = 8.64e15

/** Whether a number found in Redis can be a time. */
export function isTime(value: unknown): value is number {
  return typeof value === 'number' && value >= 0 && value <= LATEST
}

/** `undefined` if the text is not a meta field of ours. */
export function parseMeta(text: string): Meta | undefined {
  const match = META_LAYOUT.exec(text)
  if (!match) return undefined
  const numbers = match.slice(1, 9).map(Number)
  const [createdAt, absoluteAt, touchedAt, renewedAt, authenticatedAt, revision, version, idleTimeout] =
    numbers as [number, number, number, number, number, number, number, number]
  if (![createdAt, absoluteAt, touchedAt, renewedAt, authenticatedAt].every(isTime)) return undefined
  return {
    createdAt,
    absoluteAt,
    touchedAt,
    renewedAt,
    authenticatedAt,
    revision,
    version,
    idleTimeout,
    persistent: match[9] === '-' ? undefined : match[9] === '1',
    userHash: match[10] === '-' ? undefined : match[10]
  }
}

/** What {@link parseMeta} reads. */
export function formatMeta(meta: Meta): string {
  const { createdAt, absoluteAt, touchedAt, renewedAt, authenticatedAt, revision, version, idleTimeout } =
    meta
  const persistent = meta.persistent === undefined ? '-' : Number(meta.persistent)
  const numbers = [
    createdAt,
    absoluteAt,
    touchedAt,
    renewedAt,
    authenticatedAt,
    revision,
    version,
    idleTimeout
  ]
  return `2 ${numbers.join(' ')} ${persistent} ${meta.userHash ?? '-'}`
}

/** `undefined` if the text is not a verifier field of ours. */
export function parseVerifier(text: string | undefined): VerifierState | undefined {
  const match = text === undefined ? null : VERIFIER_LAYOUT.exec(text)
  if (!match) return undefined
  return {
    generation: Number(match[1]),
    hash: match[2]!,
    previous: match[3] === '-' ? undefined : match[3],
    presented: match[4] !== '-'
  }
}

export function fieldOf(key: string): string {
  return key.charCodeAt(0) === 64 ? `@${key}` : key
}

/** The user's key of a field, or `undefined` for one of the plugin's own. */
export function keyOf(field: string): string | undefined {
  if (field.charCodeAt(0) !== 64) return field
  return field.charCodeAt(1) === 64 ? field.slice(1) : undefined
}
