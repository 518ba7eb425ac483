import {
  forbiddenWords,
  isServerLocal,
  pureFunctions,
  pureOperators,
  pureTypes,
  wordsBeforeParenthesis,
  wordsBeforeParenthesisAfter,
  wordsBeforeText
} from './pure-sql.js'
import { tokenize, type SqlToken } from './sql-tokens.js'

/** Separates statements that provably only read, and show the same on every server, from all others. */
export interface RouteClassifier {
  /** Whether a statement may run on a replica. */
  isPureRead(text: string): boolean
  /** Remembers that a statement was refused as a read. */
  remember(text: string): void
}

/** Statements remembered; an app has some hundreds, one that builds them from data has no end of them. */
const MAX_REMEMBERED = 2_000
/** A longer one is not worth remembering, nor likely to come again. */
const MAX_LENGTH = 20_000

export function createRouteClassifier(): RouteClassifier {
  const known = new Map<string, boolean>()
  const keep = (text: string, pure: boolean): boolean => {
    if (text.length > MAX_LENGTH) return pure
    if (known.size >= MAX_REMEMBERED) known.delete(known.keys().next().value!)
    known.set(text, pure)
    return pure
  }
  return {
    isPureRead: (text) => known.get(text) ?? keep(text, typeof text === 'string' && isPureRead(text)),
    remember: (text) => void keep(text, false)
  }
}

/**
 * Whether a statement is one SELECT (or VALUES, TABLE, WITH) that neither writes, nor locks, nor calls anything but what
 * is known to do neither. False for everything it is not sure of. What it can not see, a view over a writing
 * function, is refused as a read; then the statement goes to the primary as a write and is remembered.
 */
export function isPureRead(text: string): boolean {
  const tokens = tokenize(text)
  if (!tokens) return false
  while (tokens.at(-1)?.text === ';' && tokens.at(-1)?.kind === 'sign') tokens.pop()
  const [first] = tokens
  if (first?.kind !== 'word' || !['select', 'with', 'values', 'table'].includes(first.text)) return false
  return tokens.every((_token, index) => isHarmless(tokens, index))
}

function isHarmless(tokens: readonly SqlToken[], index: number): boolean {
  const token = tokens[index]!
  const before = tokens[index - 1]
  const after = tokens[index + 1]
  if (token.kind === 'literal' || token.kind === 'parameter') return true
  if (token.kind === 'operator') return pureOperators.has(token.text)
  if (token.kind === 'sign') {
    if (token.text === ';') return false
    // `::type`; a single colon is a slice of an array.
    return token.text !== ':' || before?.text !== ':' || isPureType(tokens, index + 1)
  }
  // `type 'text'` runs the type's input function.
  const quoted = after?.kind === 'literal' && !/^[\d.]/.test(after.text)
  if (quoted && !pureTypes.has(token.text) && !wordsBeforeText.has(token.text)) return false
  const called = after?.kind === 'sign' && after.text === '('
  if (isServerLocal(token.text.replaceAll('"', ''))) return false
  if (token.kind === 'quoted') return !called
  if (forbiddenWords.has(token.text)) return false
  if (token.text === 'operator') return false
  if (token.text === 'as' && isCast(tokens, index)) return isPureType(tokens, index + 1)
  if (!called) return true
  // Of another schema, whatever its name: not PostgreSQL's own.
  if (before?.text === '.') return tokens[index - 2]?.text === 'pg_catalog' && pureFunctions.has(token.text)
  return (
    pureFunctions.has(token.text) ||
    wordsBeforeParenthesis.has(token.text) ||
    (before !== undefined && wordsBeforeParenthesisAfter.get(token.text)?.has(before.text) === true) ||
    isTypeOrAlias(token, tokens, index)
  )
}

/** A type's name followed by a point is a schema's. */
function isPureType(tokens: readonly SqlToken[], index: number): boolean {
  const token = tokens[index]
  return token?.kind === 'word' && pureTypes.has(token.text) && tokens[index + 1]?.text !== '.'
}

/** Whether an AS belongs to the CAST( whose parenthesis is the innermost open one. */
function isCast(tokens: readonly SqlToken[], index: number): boolean {
  let depth = 0
  for (let at = index - 1; at >= 0; at--) {
    const { kind, text } = tokens[at]!
    if (kind !== 'sign') continue
    if (text === ')') depth++
    if (text === '(' && depth-- === 0) return tokens[at - 1]?.text === 'cast'
  }
  return false
}

/** `varchar(20)` after a cast, and `with name (columns) as` or `as name (columns)`, look like calls. */
function isTypeOrAlias(token: SqlToken, tokens: readonly SqlToken[], index: number): boolean {
  const before = tokens[index - 1]
  if (pureTypes.has(token.text) && (before?.text === ':' || before?.text === 'as')) return true
  return (
    before?.kind === 'word' &&
    (before.text === 'as' || before.text === 'recursive' || (before.text === 'with' && index === 1))
  )
}
