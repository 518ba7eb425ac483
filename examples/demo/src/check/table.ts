export interface Outcome {
  readonly name: string
  readonly held: boolean
  /** What was seen, or why it failed. */
  readonly detail: string
  readonly ms: number
}

/** The story as a table for the terminal. */
export function tableOf(outcomes: readonly Outcome[]): string {
  const width = Math.max(...outcomes.map(({ name }) => name.length))
  return outcomes
    .map(({ name, held, detail, ms }) => {
      const seconds = `${(ms / 1_000).toFixed(1)} s`.padStart(7)
      const [first = '', ...rest] = detail.split('\n')
      const more = rest.map((line) => `\n${' '.repeat(width + 15)}${line}`).join('')
      return `  ${held ? '✓' : '✗'} ${name.padEnd(width)} ${seconds}   ${first}${more}`
    })
    .join('\n')
}
