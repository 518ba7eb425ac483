import type { Ledger } from './ledger.js'

const WIDTH = 960
const LEFT = 50
const PLOT = 180

/** Requests and failures a second, the faults below, and each violation as a red line. */
export function timelineOf(ledger: Ledger, title: string): string {
  const total = Math.max(1, ledger.seconds.length) * 1_000
  const x = (ms: number): number => LEFT + (Math.min(ms, total) / total) * (WIDTH - LEFT - 10)
  const most = Math.max(1, ...ledger.seconds.map(({ answered }) => answered))
  const y = (value: number): number => 30 + PLOT - (Math.min(value, most) / most) * PLOT
  const line = ledger.seconds.map(
    ({ answered }, second) => `${x(second * 1_000).toFixed(1)},${y(answered).toFixed(1)}`
  )
  const failed = ledger.seconds.map(({ failed: count }, second) =>
    count === 0
      ? ''
      : `<rect class="failed" x="${x(second * 1_000).toFixed(1)}" y="${y(count).toFixed(1)}" width="3" height="${(30 + PLOT - y(count)).toFixed(1)}"/>`
  )
  const kinds = [...new Set(ledger.events.map(({ what }) => what.split(' ')[0]!))]
  const faults = ledger.events.map(({ at, until, what }) => {
    const top = 30 + PLOT + 16 + kinds.indexOf(what.split(' ')[0]!) * 18
    return `<rect class="fault" x="${x(at).toFixed(1)}" y="${top}" width="${Math.max(3, x(until) - x(at)).toFixed(1)}" height="12" rx="2"><title>${what}</title></rect>`
  })
  const names = kinds.map(
    (kind, row) => `<text x="${LEFT}" y="${30 + PLOT + 26 + row * 18}" class="name">${kind}</text>`
  )
  const violations = ledger.violations.map(
    ({ at, invariant }) =>
      `<line class="violation" x1="${x(at).toFixed(1)}" x2="${x(at).toFixed(1)}" y1="30" y2="${30 + PLOT}"><title>${invariant}</title></line>`
  )
  const height = 30 + PLOT + 30 + kinds.length * 18
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${title}">
<style>
  text { font: 12px system-ui, sans-serif; fill: #1f2933 } .name { font-size: 10px; fill: #334155 }
  .rate { fill: none; stroke: #0f766e; stroke-width: 1.5 } .failed { fill: #d97706 } .fault { fill: #c7d2fe }
  .violation { stroke: #b91c1c; stroke-width: 2 }
  @media (prefers-color-scheme: dark) { text { fill: #e5e9ee } .name { fill: #cbd5e1 } .rate { stroke: #2dd4bf } .fault { fill: #3730a3 } }
</style>
<text x="${LEFT}" y="16">${title}</text>
<text x="0" y="40">${most}/s</text><text x="0" y="${30 + PLOT}">0</text>
<polyline class="rate" points="${line.join(' ')}"/>
${failed.join('')}
${faults.join('\n')}
${names.join('\n')}
${violations.join('\n')}
</svg>
`
}
