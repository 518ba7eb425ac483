// Counts the assertions of a run of `pnpm test` by layer, for the table of packages/TESTING.md.
//   node .ci/test-counts.mjs RUN.tap           prints the table
//   node .ci/test-counts.mjs RUN.tap --write   writes it into packages/TESTING.md
import { readFileSync, writeFileSync } from 'node:fs'

const page = new URL('../packages/TESTING.md', import.meta.url)

/** The first pattern that a test file's path matches names its layer. */
const LAYERS = [
  ['documentation', /readme|documentation|documents|command-line/],
  ['contract suites', /contract|topologies|register|round-trips|rfc9111/],
  ['races', /race|identity|forgotten|command-order|concurren|lease|storm/],
  [
    'faults and failover',
    /fault|fail|outage|recovery|migration|stall|loss|promotion|fallback|rolling|close|signals|late-|visitors|drain|delivery/
  ],
  [
    'hostile and slow clients',
    /bad-input|rude|poison|cookie|admission|backpressure|access|flood|overload|leak|slow|hostile/
  ],
  ['consistency', /read-your-writes|tokens|waits|carriers|fleet|clusters/],
  ['software of others', /companions|orm|ioredis-5|rate-limit|bullmq|adapter|cursor|copy|chromium|python/],
  ['the demo in a browser and its checks', /examples\//],
  ['the test tools themselves', /testbed|bench/],
  ['behaviour and types of one package', /./]
]

const [file, mode] = process.argv.slice(2)
if (file === undefined) {
  console.error('usage: node .ci/test-counts.mjs RUN.tap [--write]')
  process.exit(2)
}
const layers = new Map(LAYERS.map(([name]) => [name, { files: 0, assertions: 0 }]))
let current
for (const line of readFileSync(file, 'utf8').split('\n')) {
  const started = /^# Subtest: (\S+\.test\.ts)/.exec(line)?.[1]
  if (started !== undefined) {
    current = layers.get(LAYERS.find(([, pattern]) => pattern.test(started))[0])
    current.files += 1
  }
  // A line that ends a subtest has a duration; an assertion has none.
  if (current !== undefined && /^\s+(?:not )?ok \d+/.test(line) && !/# time=/.test(line))
    current.assertions += 1
}
const rows = [...layers].filter(([, { files }]) => files > 0)
const total = rows.reduce((sum, [, { assertions }]) => sum + assertions, 0)
const files = rows.reduce((sum, [, layer]) => sum + layer.files, 0)
const figure = (count) => count.toLocaleString('en')
const table = [
  '| layer | test files | assertions |',
  '| --- | --: | --: |',
  ...rows.map(([name, layer]) => `| ${name} | ${layer.files} | ${figure(layer.assertions)} |`),
  `| all | ${files} | ${figure(total)} |`
].join('\n')
console.log(table)
if (mode === '--write') {
  const text = readFileSync(page, 'utf8')
  const section = /(<!-- counts -->)[^]*(<!-- \/counts -->)/
  writeFileSync(page, text.replace(section, `$1\n\n${table}\n\n$2`))
}
