/*
 * The comparisons in the READMEs, from the JSON of full runs in `results/`: `node dist/comparison.js` writes them.
 * `npx pnpm bench <suite> --json packages/bench/results/<suite>.json` makes one.
 */
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import type { Report } from './harness/report.js'
import type { CaseResult } from './harness/run.js'

const PACKAGES: Readonly<Record<string, string>> = {
  session: 'session',
  cache: 'cache',
  ws: 'ws-broadcast',
  db: 'db-router',
  health: 'health'
}
/** A full run, and what whoever keeps it has to say of it. */
type Result = Report & { readonly note?: string }

/** No products: the least that can do the job, and a route that does nothing. */
const YARDSTICKS = new Set(['floor', 'bare'])

const root = (path: string): string => fileURLToPath(new URL(`../../../${path}`, import.meta.url))

const figure = (value: number): string =>
  Number(value.toPrecision(3)).toLocaleString('en-US', { maximumFractionDigits: 3 })

const times = (value: number): string =>
  `${value >= 10 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(2) : value.toFixed(3)}×`

const subjectOf = (pair: string): string => pair.replace(/^.*?\//, '')

/** How many times better ours is than each other subject: more where more is better, less where less is. None beside none of ours. */
function advantages({ ratios, higherIsBetter }: CaseResult): [subject: string, times: number][] {
  return Object.entries(ratios)
    .filter(([, ratio]) => ratio > 0)
    .map(([pair, ratio]) => [subjectOf(pair), higherIsBetter ? ratio : 1 / ratio])
}

/** Where ours is none of what should not be (a stale key), no number of times says it: theirs, as counted. */
function counted({ ratios, results, unit }: CaseResult): string {
  return Object.entries(ratios)
    .filter(([, ratio]) => ratio === 0)
    .map(([pair]) => {
      const theirs = results.find(({ subject }) => subject === subjectOf(pair))!
      return `${theirs.subject} has ${figure(theirs.median)} ${unit}`
    })
    .join(', ')
}

const listed = (pairs: readonly [string, number][], ofProducts: boolean): string =>
  pairs
    .filter(([subject]) => YARDSTICKS.has(subject) !== ofProducts)
    .map(([subject, value]) => `${subject} ${times(value)}`)
    .join(', ')

const where = ({ machine, node, date }: Result): string =>
  `${machine}, Node.js ${node.slice(1)}, ${date.slice(0, 10)}`

/** The section of one package: each case, ours, and how many times better it is than the others. */
export function sectionOf(report: Result): string {
  const rows = report.cases.map((one) => {
    const ours = one.results[0]!
    const pairs = advantages(one)
    const cpu = Object.entries(one.cpuRatios ?? {}).filter(([pair]) => !YARDSTICKS.has(subjectOf(pair)))
    const byCpu = cpu.map(([pair, ratio]) => `${subjectOf(pair)} ${times(ratio)}`).join(', ')
    return `| ${one.title} | ${figure(ours.median)} (${figure(ours.min)} to ${figure(ours.max)}) ${one.unit} | ${listed(pairs, true) || counted(one)}${byCpu && `; by CPU: ${byCpu}`} | ${listed(pairs, false)} |`
  })
  return [
    `Medians (least to most) of the rounds of one full run, every subject in its own process and all of them in turn:`,
    `${where(report)}. Times better than each: above 1 ours is ahead, below 1 it is behind.`,
    `*floor* is the least that can do the job, *bare* a route that does nothing. Again with \`npx pnpm bench ${report.suite}\`.`,
    ...(report.note === undefined ? [] : [report.note]),
    '',
    '| | here | times better than | beside |',
    '| --- | --- | --- | --- |',
    ...rows
  ].join('\n')
}

/** The section of the root: for each package the lowest and the highest over all cases, beside each product. */
export function summaryOf(reports: readonly Result[]): string {
  const rows = reports.map((report) => {
    const seen = new Map<string, number[]>()
    for (const one of report.cases)
      for (const [subject, value] of advantages(one)) seen.set(subject, [...(seen.get(subject) ?? []), value])
    const ranges = [...seen]
      .filter(([subject]) => !YARDSTICKS.has(subject))
      .map(([subject, values]) => `${subject} ${range(values)}`)
    const name = PACKAGES[report.suite]!
    return `| [\`${name}\`](packages/${name}/README.md#measured-beside-its-peers) | ${report.cases.length} | ${ranges.join(', ')} |`
  })
  return [
    `Full runs, every subject in its own process and all of them in turn: ${[...new Set(reports.map(where))].join('; ')}.`,
    'From the least to the most favourable case, times better than each peer: above 1 ours is ahead, below 1 it is behind. Each case is in',
    'the README of its package; again with `npx pnpm bench`.',
    ...new Set(reports.flatMap(({ note }) => note ?? [])),
    '',
    '| package | cases | times better than |',
    '| --- | --- | --- |',
    ...rows
  ].join('\n')
}

function range(values: readonly number[]): string {
  const [least, most] = [times(Math.min(...values)), times(Math.max(...values))]
  return least === most ? least : `${least} to ${most}`
}

/** The text with this between its two marks. @throws where it has none */
export function insert(text: string, section: string): string {
  const marks = /(<!-- measured -->\n).*?(<!-- \/measured -->)/s
  if (!marks.test(text)) throw new Error('the README has no <!-- measured --> … <!-- /measured -->')
  return text.replace(marks, (_, begin: string, end: string) => `${begin}\n${section}\n\n${end}`)
}

/** Every README with a comparison, as it is and as it must be. @throws for a result of no full run */
export async function comparisons(): Promise<{ path: string; is: string; must: string }[]> {
  const folder = root('packages/bench/results')
  const reports: Result[] = []
  for (const suite of Object.keys(PACKAGES)) {
    if (!(await readdir(folder)).includes(`${suite}.json`)) continue
    const report = JSON.parse(await readFile(`${folder}/${suite}.json`, 'utf8')) as Result
    if (report.suite !== suite || report.quick || report.void !== undefined)
      throw new Error(`results/${suite}.json is not of a full run of ${suite}`)
    reports.push(report)
  }
  const sections = reports.map((report) => [
    `packages/${PACKAGES[report.suite]}/README.md`,
    sectionOf(report)
  ])
  return Promise.all(
    [['README.md', summaryOf(reports)], ...sections].map(async ([path, section]) => {
      const is = await readFile(root(path!), 'utf8')
      return { path: path!, is, must: insert(is, section!) }
    })
  )
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const { path, is, must } of await comparisons()) {
    if (is === must) continue
    await writeFile(root(path), must)
    console.log(`written: ${path}`)
  }
}
