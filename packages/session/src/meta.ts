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

const LAYOUT =
  /^1 (\d{1,16}) (\d{1,16}) (\d{1,16}) (\d{1,16}) (\d{1,16}) (\d{1,9}) ([\w-]{43}) ([\w-]{32}|-)$/

/** `undefined` where the text is not a meta field of ours. */
export function parseMeta(text: string): Meta | undefined {
  const match = LAYOUT.exec(text)
  if (!match) return undefined
  return {
    createdAt: Number(match[1]),
    absoluteAt: Number(match[2]),
    touchedAt: Number(match[3]),
    renewedAt: Number(match[4]),
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
