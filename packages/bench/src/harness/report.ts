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
  const rows = result.results.map(({ subject, median, min, max, cpu }) => [
    subject,
    figure(median),
    figure(min),
    figure(max),
    ...(result.cpuRatios ? [cpu === undefined ? '' : figure(cpu)] : [])
  ])
  const table = [['', 'median', 'min', 'max', ...(result.cpuRatios ? ['CPU µs each'] : [])], ...rows]
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)))
  const lines = table.map(
    (row) =>
      `    ${row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!))).join('  ')}`
  )
  return [
    `${result.suite}/${result.case}: ${result.title} (${result.unit}, ${direction})`,
    `  ${ratioLine(result.ratios) || 'nothing to compare with'}`,
    ...(result.cpuRatios ? [`  by CPU: ${ratioLine(result.cpuRatios)}`] : []),
    ...lines,
    ''
  ].join('\n')
}

function ratioLine(ratios: Readonly<Record<string, number>>): string {
  return Object.entries(ratios)
    .map(([name, ratio]) => `${name} ${ratio.toFixed(2)}×`)
    .join('   ')
}

/** Three or four significant digits, thousands apart. */
export function figure(value: number): string {
  if (value >= 1_000) return Math.round(value).toLocaleString('en-US')
  if (value >= 100) return value.toFixed(0)
  if (value >= 10) return value.toFixed(1)
  return value.toFixed(value >= 1 || value === 0 ? 2 : 4)
}
