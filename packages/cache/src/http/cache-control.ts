/** Directives by lower-case name; `true` without a value. */
export type Directives = ReadonlyMap<string, string | true>

const NONE: Directives = new Map()
/** A long run of blanks would be tried from each of its places by the expressions that follow. */
export const BLANKS = /\s{2,}/g
const DIRECTIVE = /\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,;"]*)))?\s*(?:,|$)/y

/**
 * Reads a Cache-Control value (RFC 9111 §5.2). Of a directive given twice the first counts (§4.2.1). A part that cannot
 * be read ends in `undefined`: the caller takes that for the most cautious meaning.
 */
export function parseCacheControl(value: string | undefined): Directives | undefined {
  if (value === undefined) return NONE
  const text = value
    .replaceAll(BLANKS, ' ')
    .replaceAll(/,( ?,)+/g, ',')
    .replaceAll(/^[ ,]+|[ ,]{1,3}$/g, '')
  if (text === '') return NONE
  const directives = new Map<string, string | true>()
  DIRECTIVE.lastIndex = 0
  while (DIRECTIVE.lastIndex < text.length) {
    const match = DIRECTIVE.exec(text)
    if (!match) return undefined
    const name = match[1]!.toLowerCase()
    const argument = match[2]?.replaceAll(/\\(.)/g, '$1') ?? match[3]
    if (!directives.has(name)) directives.set(name, argument ?? true)
  }
  return directives
}

/** Seconds of a directive as milliseconds; 0 where it is there and unreadable, `undefined` where it is absent. */
export function seconds(directives: Directives, name: string): number | undefined {
  const value = directives.get(name)
  if (value === undefined) return undefined
  // RFC 9111 §1.2.2: what is too large counts as 2^31; a malformed one as stale.
  if (value === true || !/^\d+$/.test(value)) return 0
  return Math.min(Number(value), 2 ** 31) * 1000
}

/** Directives whose value is an integer. */
const INTEGERS: ReadonlySet<string> = new Set([
  'max-age',
  's-maxage',
  'stale-if-error',
  'stale-while-revalidate'
])

/**
 * Reads a targeted field (RFC 9213): a Structured Fields dictionary. `undefined` where it does not parse, is empty,
 * or is absent, and is then ignored (§2.1).
 */
export function parseTargeted(value: string | undefined): Directives | undefined {
  if (value === undefined || value.trim() === '') return undefined
  const directives = new Map<string, string | true>()
  for (const member of value.split(',')) {
    const match =
      /^\s*([a-z*][a-z0-9_.*-]*)(?:=(?:(\d{1,15})|\?([01])|([A-Za-z*][^\s,;"]*)|"([^"\\]*)"))?\s*(?:;.*)?$/.exec(
        member
      )
    if (!match) return undefined
    const [, name, integer, flag, token, text] = match
    // A string in place of an integer makes the field invalid.
    if (text !== undefined && INTEGERS.has(name!)) return undefined
    if (flag === '0') continue
    // Parameters are ignored; unlike in Cache-Control, the last of two counts (RFC 9651 §4.2.2).
    directives.set(name!, integer ?? token ?? text ?? true)
  }
  return directives
}
