/** The meta field of a session's hash: times by Redis's clock, in milliseconds since 1970. */
export interface Meta {
  readonly createdAt: number
  /** When the session ends whatever happens. */
  readonly absoluteAt: number
  /** Last write of the idle deadline. */
  readonly touchedAt: number
  /** Last time the id changed. */
  readonly renewedAt: number
  /** Counts writes. */
  readonly revision: number
  /** Version of the data's shape (option `version`). */
  readonly version: number
  /** The session's public reference. */
  readonly ref: string
  /** Whose it is, or `undefined` before login. */
  readonly userHash: string | undefined
}

/** Field names that begin with `@` are the plugin's; a user's key that does is stored with one `@` more. */
export const META = '@'
export const USER = '@u'
export const ALIAS = '@a'
/** All that is left, for a moment, of a session that another one has replaced. */
export const ENDED = '@t'

const LAYOUT =
  /^1 (\d{1,16}) (\d{1,16}) (\d{1,16}) (\d{1,16}) (\d{1,16}) (\d{1,9}) ([\w-]{43}) ([\w-]{32}|-)$/

// ECMA-262 §21.4.1.1: no Date is later, and one that is cannot be printed.
export const LATEST = 8.64e15

/** Whether a number found in Redis can be a time. */
export function isTime(value: unknown): value is number {
  return typeof value === 'number' && value >= 0 && value <= LATEST
}

/** `undefined` where the text is not a meta field of ours. */
export function parseMeta(text: string): Meta | undefined {
  const match = LAYOUT.exec(text)
  if (!match) return undefined
  const createdAt = Number(match[1])
  const absoluteAt = Number(match[2])
  const touchedAt = Number(match[3])
  const renewedAt = Number(match[4])
  if (!isTime(createdAt) || !isTime(absoluteAt) || !isTime(touchedAt) || !isTime(renewedAt)) return undefined
  return {
    createdAt,
    absoluteAt,
    touchedAt,
    renewedAt,
    revision: Number(match[5]),
    version: Number(match[6]),
    ref: match[7]!,
    userHash: match[8] === '-' ? undefined : match[8]
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
