import { figure, type Report } from './report.js'
import type { CaseResult } from './run.js'

const WIDTH = 720
const LABEL = 190
const VALUE = 110
const BAR = 16
const GAP = 6

/**
 * A bar chart of one suite, for a README: one group a case, our bar first and in colour, the whole range of
 * the rounds as a thin line. Colours follow the reader's light or dark page.
 */
export function chartOf(report: Report): string {
  let y = 34
  const groups: string[] = []
  for (const result of report.cases) {
    groups.push(group(result, y))
    y += 30 + result.results.length * (BAR + GAP) + 14
  }
  const note = `${report.node}, ${report.machine}, ${report.date.slice(0, 10)}`
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y + 14}" role="img" aria-label="${text(`Benchmark ${report.suite}`)}">
<style>
  text { font: 13px system-ui, sans-serif; fill: #1f2933 }
  .title { font-weight: 600 } .note { font-size: 11px; fill: #697586 }
  .ours { fill: #0f766e } .other { fill: #b8c2cc } .range { stroke: #334155; stroke-width: 1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e5e9ee } .note { fill: #9aa5b1 } .ours { fill: #2dd4bf } .other { fill: #4b5563 } .range { stroke: #e5e9ee }
  }
</style>
<text class="title" x="0" y="16">${text(report.suite)}</text>
${groups.join('\n')}
<text class="note" x="0" y="${y + 6}">${text(note)}</text>
</svg>
`
}

function group(result: CaseResult, top: number): string {
  const longest = Math.max(...result.results.map(({ max }) => max), Number.MIN_VALUE)
  const scale = (value: number): number => (value / longest) * (WIDTH - LABEL - VALUE)
  const direction = result.higherIsBetter ? 'more is better' : 'less is better'
  const bars = result.results.map(({ subject, median, min, max }, index) => {
    const y = top + 12 + index * (BAR + GAP)
    const middle = y + BAR / 2
    return `<text x="${LABEL - 8}" y="${middle + 4}" text-anchor="end">${text(subject)}</text>
<rect class="${subject === 'flotilla' ? 'ours' : 'other'}" x="${LABEL}" y="${y}" width="${scale(median).toFixed(1)}" height="${BAR}" rx="2"/>
<line class="range" x1="${(LABEL + scale(min)).toFixed(1)}" x2="${(LABEL + scale(max)).toFixed(1)}" y1="${middle}" y2="${middle}"/>
<text x="${(LABEL + scale(max) + 8).toFixed(1)}" y="${middle + 4}">${figure(median)}</text>`
  })
  return `<text class="note" x="0" y="${top + 4}">${text(`${result.case}: ${result.unit}, ${direction}`)}</text>
${bars.join('\n')}`
}

function text(value: string): string {
  return value.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`)
}
