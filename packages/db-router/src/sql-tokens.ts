/** One word, name, literal or sign of a statement. */
export interface SqlToken {
  kind: 'word' | 'quoted' | 'literal' | 'parameter' | 'operator' | 'sign'
  /** In lower case for words, as written otherwise. */
  text: string
}

// Not \s: what else that matches, such as a no-break space, is part of a name to PostgreSQL.
const SPACE = /[ \t\n\r\f]+/y
const LINE_COMMENT = /--[^\r\n]*/y
const WORD = /[a-z_\u0080-\uffff][a-z0-9_$\u0080-\uffff]*/iy
const NUMBER = /(?:\d[\d_]*(?:\.(?:\d[\d_]*)?)?|\.\d[\d_]*)(?:e[+-]?\d+)?/iy
const PARAMETER = /\$\d+/y
const DOLLAR_QUOTE = /\$(?:[a-z_\u0080-\uffff][a-z0-9_\u0080-\uffff]*)?\$/iy
const OPERATOR = /[+\-*/<>=~!@#%^&|`?]+/y
const SIGNS = '()[],;:.'

/**
 * Splits a statement after PostgreSQL's lexical rules ("SQL Syntax: Lexical Structure"). Gives `undefined` for whatever
 * it is not sure of, such as a backslash in a string, whose meaning depends on a setting: it is for deciding what is
 * safe, not for reading everything.
 */
export function tokenize(sql: string): SqlToken[] | undefined {
  const tokens: SqlToken[] = []
  let at = 0
  const match = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at
    return pattern.exec(sql)?.[0]
  }
  while (at < sql.length) {
    const skipped = match(SPACE) ?? match(LINE_COMMENT)
    if (skipped !== undefined) {
      at += skipped.length
      continue
    }
    if (sql.startsWith('/*', at)) {
      const end = endOfComment(sql, at)
      if (end === undefined) return undefined
      at = end
      continue
    }
    const sign = sql[at]!
    if (sign === "'" || sign === '"') {
      const end = endOfQuoted(sql, at, sign)
      if (end === undefined) return undefined
      tokens.push({ kind: sign === '"' ? 'quoted' : 'literal', text: sql.slice(at, end) })
      at = end
      continue
    }
    const word = match(WORD)
    if (word !== undefined) {
      at += word.length
      // E'…', B'…', U&'…' and the like have rules of their own.
      if (sql[at] === "'" || (sql[at] === '&' && (sql[at + 1] === "'" || sql[at + 1] === '"')))
        return undefined
      tokens.push({ kind: 'word', text: lowerCase(word) })
      continue
    }
    const quote = match(DOLLAR_QUOTE)
    if (quote !== undefined) {
      const end = sql.indexOf(quote, at + quote.length)
      if (end < 0) return undefined
      tokens.push({ kind: 'literal', text: sql.slice(at, end + quote.length) })
      at = end + quote.length
      continue
    }
    const rest = read(match)
    if (rest) {
      tokens.push(rest)
      at += rest.text.length
    } else if (SIGNS.includes(sign)) {
      tokens.push({ kind: 'sign', text: sign })
      at++
    } else return undefined
  }
  return tokens
}

/** Of ASCII alone: a name in which JavaScript would find the Kelvin sign to be a k is another name to PostgreSQL. */
const lowerCase = (word: string): string => word.replaceAll(/[A-Z]+/g, (letters) => letters.toLowerCase())

function read(match: (pattern: RegExp) => string | undefined): SqlToken | undefined {
  const number = match(NUMBER)
  if (number !== undefined) return { kind: 'literal', text: number }
  const parameter = match(PARAMETER)
  if (parameter !== undefined) return { kind: 'parameter', text: parameter }
  const operator = match(OPERATOR)
  if (operator === undefined) return undefined
  // A comment may begin inside a run of operator signs.
  const comment = operator.search(/--|\/\*/)
  const text = comment > 0 ? operator.slice(0, comment) : operator
  return { kind: 'operator', text }
}

/** Comments nest in PostgreSQL. */
function endOfComment(sql: string, start: number): number | undefined {
  let depth = 0
  for (let at = start; at < sql.length - 1; at++) {
    if (sql[at] === '/' && sql[at + 1] === '*') {
      depth++
      at++
    } else if (sql[at] === '*' && sql[at + 1] === '/') {
      depth--
      at++
      if (depth === 0) return at + 1
    }
  }
  return undefined
}

function endOfQuoted(sql: string, start: number, quote: string): number | undefined {
  for (let at = start + 1; at < sql.length; at++) {
    // With standard_conforming_strings off, a backslash could hide the end.
    if (sql[at] === '\\' && quote === "'") return undefined
    if (sql[at] !== quote) continue
    if (sql[at + 1] !== quote) return at + 1
    at++
  }
  return undefined
}
