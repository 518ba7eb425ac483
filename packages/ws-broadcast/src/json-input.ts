import { parse } from 'secure-json-parse'

/** Nesting that any real message stays under and that no recursive reader of it trips over. */
export const MAX_DEPTH = 32

/** A client's text as a plain object, or why it is none. `__proto__` and `constructor.prototype` are refused. */
export function readJsonObject(text: string): Record<string, unknown> | 'bad_frame' | 'too_deep' {
  if (tooDeep(text)) return 'too_deep'
  try {
    const value: unknown = parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : 'bad_frame'
  } catch {
    return 'bad_frame'
  }
}

/** Counts brackets outside of strings: cheaper than parsing, and done before it. */
function tooDeep(text: string): boolean {
  let depth = 0
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index)
    if (code === 34) {
      // To the closing quote; a backslash takes the next character along.
      for (index += 1; index < text.length && text.charCodeAt(index) !== 34; index += 1) {
        if (text.charCodeAt(index) === 92) index += 1
      }
    } else if (code === 91 || code === 123) {
      depth += 1
      if (depth > MAX_DEPTH) return true
    } else if (code === 93 || code === 125) {
      depth -= 1
    }
  }
  return false
}
