import { EnvironmentError } from './errors.js'

/**
 * What the environment asks of the testbed. A value that is not known is refused: a test run on other servers than
 * the caller meant proves nothing.
 */
const choices = {
  /** Which servers: those that this system's own release has, or those of the releases after it. */
  FLOTILLA_SERVERS: ['oldest', 'newest'],
  /** Which program speaks Redis's protocol: `any` takes Valkey if there is no Redis. */
  FLOTILLA_REDIS: ['any', 'redis', 'valkey'],
  /** Where programs come from: `auto` fetches what is not installed. */
  FLOTILLA_PROGRAMS: ['auto', 'path', 'fetch']
} as const

type Choices = typeof choices

/** The value of a variable, its first one if it is unset or empty. @throws FLOTILLA_TESTBED_ERR_ENVIRONMENT */
export function choiceOf<Name extends keyof Choices>(
  name: Name,
  env: NodeJS.ProcessEnv = process.env
): Choices[Name][number] {
  const values: readonly Choices[Name][number][] = choices[name]
  const text = env[name]
  if (text === undefined || text === '') return values[0] as Choices[Name][number]
  const value = values.find((one) => one === text)
  if (value !== undefined) return value
  throw new EnvironmentError(name, values.join(', '), text, nearest(text, values))
}

/** The value that is the fewest edits away. */
function nearest(text: string, values: readonly string[]): string {
  const lower = text.toLowerCase()
  const [best] = values
    .map((value) => ({ value, edits: distance(lower, value) }))
    .sort((a, b) => a.edits - b.edits)
  return best === undefined ? '' : best.value
}

/** Levenshtein's distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_none, index) => index)
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i]
    for (let j = 1; j <= b.length; j += 1) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row.at(-1) ?? 0
}
