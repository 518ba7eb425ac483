import { availableParallelism, cpus, totalmem } from 'node:os'
import type { CaseResult } from './run.js'

/** What `--json` writes. In a run of `all` the suite is named on each case as well. */
export interface Report {
  readonly suite: string
  readonly node: string
  readonly machine: string
  readonly date: string
  readonly quick: boolean
  readonly cases: readonly CaseResult[]
  /** Why the run ended before the cases that are not here. */
  readonly void?: string
}

export function reportOf(
  suite: string,
  quick: boolean,
  cases: readonly CaseResult[],
  failure?: Error
): Report {
  return {
    suite,
    node: process.version,
    machine: machine(),
    date: new Date().toISOString(),
    quick,
    cases,
    ...(failure && { void: failure.message })
  }
}

function machine(): string {
  const memory = Math.round(totalmem() / 2 ** 30)
  return `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${availableParallelism()} cores, ${memory} GB`
}

/** One case as text: the ratios first, then the figures they come from. */
export function tableOf(result: CaseResult): string {
  const direction = result.higherIsBetter ? 'higher is better' : 'lower is better'
  const ratios = Object.entries(result.ratios).map(([name, ratio]) => `${name} ${ratio.toFixed(2)}×`)
  const rows = result.results.map(({ subject, median, min, max }) => [
    subject,
    figure(median),
    figure(min),
    figure(max)
  ])
  const table = [['', 'median', 'min', 'max'], ...rows]
  const widths = [0, 1, 2, 3].map((column) => Math.max(...table.map((row) => row[column]!.length)))
  const lines = table.map(
    (row) =>
      `    ${row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!))).join('  ')}`
  )
  return [
    `${result.suite}/${result.case}: ${result.title} (${result.unit}, ${direction})`,
    `  ${ratios.join('   ') || 'nothing to compare with'}`,
    ...lines,
    ''
  ].join('\n')
}

/** Three or four significant digits, thousands apart. */
export function figure(value: number): string {
  if (value >= 1_000) return Math.round(value).toLocaleString('en-US')
  if (value >= 100) return value.toFixed(0)
  if (value >= 10) return value.toFixed(1)
  return value.toFixed(value >= 1 || value === 0 ? 2 : 4)
}
