import { test } from 'tap'
import { chartOf } from '../src/harness/chart.js'
import { drive, http, work } from '../src/harness/measures.js'
import { reportOf, tableOf } from '../src/harness/report.js'
import { paceOf, runSuite, runSuites, type CaseResult, type Pace } from '../src/harness/run.js'
import { defineSuite, type Case, type Suite } from '../src/harness/suite.js'

const pace: Pace = { ms: 60, warmupMs: 20, rounds: 3, quick: true }
const silent = { step: () => {}, done: () => {} }
const read = http({
  plan: () => ({ requests: [{ path: '/value', expect: { body: '{"n":1}' } }], connections: 4 })
})

function suiteOf(...cases: Partial<Case>[]): Suite {
  return defineSuite({
    name: 'fixture',
    title: 'Fixture',
    servers: [],
    subjects: new URL('./fixtures/subjects.js', import.meta.url),
    cases: cases.map((one, index) => ({
      name: `case-${index}`,
      title: 'a case',
      unit: 'req/s',
      subjects: ['flotilla', 'floor'],
      measure: read,
      ...one
    }))
  })
}

const run = (...cases: Partial<Case>[]): Promise<CaseResult[]> =>
  runSuite(suiteOf(...cases), pace, {}, silent)

test('subjects take turns, and the result has the documented form', async (t) => {
  const order: string[] = []
  const [result] = await run({
    unit: 'ms',
    measure: async ({ subject, warmup, processes }) => {
      t.ok(processes[0]!.pid > 0 && processes[0]!.pid !== process.pid)
      if (!warmup) order.push(subject)
      return subject === 'flotilla' ? 10 + order.length : 20
    }
  })
  t.same(order, ['flotilla', 'floor', 'flotilla', 'floor', 'flotilla', 'floor'])
  t.same(result, {
    suite: 'fixture',
    case: 'case-0',
    title: 'a case',
    unit: 'ms',
    higherIsBetter: true,
    results: [
      { subject: 'flotilla', median: 13, min: 11, max: 15, rounds: 3 },
      { subject: 'floor', median: 20, min: 20, max: 20, rounds: 3 }
    ],
    ratios: { 'flotilla/floor': 0.65 }
  })
})

test('load over HTTP, work inside, a driver of its own, several instances', async (t) => {
  const results = await run(
    {},
    { measure: work('count') },
    { measure: drive('ask'), higherIsBetter: false },
    {
      subjects: { flotilla: { instances: 2 }, alias: { process: 'floor' } },
      measure: async ({ processes }) => {
        t.equal(new Set(processes.map(({ pid }) => pid)).size, processes.length)
        return processes.at(-1)!.work('index', {})
      }
    },
    { subjects: ['flotilla'], measure: work('environment'), fresh: true, maxRounds: 1 }
  )
  t.equal(results.length, 5)
  t.ok(
    results[0]!.results.every(({ min }) => min > 0),
    'HTTP load was answered'
  )
  t.ok(results[1]!.results.every(({ min }) => min > 0))
  t.same(results[2]!.ratios, { 'flotilla/floor': 0.5 })
  t.match(results[3]!.results, [
    { subject: 'flotilla', median: 1 },
    { subject: 'alias', median: 9 }
  ])
  t.match(results[4]!.results, [{ median: 1, rounds: 1 }], 'production mode')
})

test('what a unit costs in CPU stands beside so many a second', async (t) => {
  const [result] = await run({ unit: 'calls/s', measure: work('burn') })
  const [ours, floor] = result!.results
  // Ten units in 20 ms of CPU, and in 80.
  t.ok(ours!.cpu! > 1_500 && ours!.cpu! < 4_000, `${ours!.cpu} µs`)
  t.ok(floor!.cpu! > 6_000 && floor!.cpu! < 12_000, `${floor!.cpu} µs`)
  t.ok(result!.cpuRatios!['flotilla/floor']! > 2, 'theirs over ours')
  t.match(tableOf(result!), /by CPU: flotilla\/floor \d\.\d\d×\n.*CPU µs each/)
})

test('wrong answers void the run', async (t) => {
  await t.rejects(
    run({ subjects: ['flotilla', 'wrong-body'] }),
    /wrong-body: .*wrong answers.*\{"n":2\} instead of/s
  )
  await t.rejects(run({ subjects: ['flotilla', 'wrong-status'] }), /wrong answers.*status 500/s)
  await t.rejects(run({ subjects: ['flotilla', 'wrong-work'], measure: work('count') }), /2 is not 1/)
  await t.rejects(
    run({ subjects: ['flotilla', 'never-starts'] }),
    /never-starts did not start: .*no server there/s
  )
  await t.rejects(run({ subjects: ['flotilla', 'unknown'] }), /no subject "unknown"/)
  await t.rejects(run({ measure: work('nothing') }), /no work "nothing"/)
  await t.rejects(run({ subjects: ['flotilla'], measure: work('negative') }), /the figure is -1/)
  await t.rejects(run({ subjects: ['flotilla'], measure: work('dies') }), /ended \(3\)/)
  await t.rejects(run({ subjects: ['flotilla'], measure: work('endless'), patience: 50 }), /no figure within/)
})

test('a void case ends the run and keeps what was measured before it', async (t) => {
  const suite = suiteOf({}, { subjects: ['flotilla', 'wrong-work'], measure: work('count') }, {})
  const seen: string[] = []
  const { cases, failure } = await runSuites(
    [suite, suiteOf({})],
    pace,
    {},
    {
      step: () => {},
      done: (result) => seen.push(result.case)
    }
  )
  t.same(
    cases.map((one) => one.case),
    ['case-0']
  )
  t.same(seen, ['case-0'])
  t.match(failure!.message, /case-1, subject wrong-work: .*2 is not 1/)
  t.match(reportOf('fixture', true, cases, failure), { void: failure!.message, cases: [{ case: 'case-0' }] })
  t.notOk('void' in reportOf('fixture', true, cases))
})

test('a suite is checked before it runs', async (t) => {
  t.throws(() => suiteOf({ name: 'twice' }, { name: 'twice' }), /two cases are called "twice"/)
  t.throws(() => suiteOf({ subjects: ['floor', 'flotilla'] }), /the first subject must be "flotilla"/)
  t.throws(() => suiteOf({ flags: ['--expose-gc'] }), /"flags" are for processes of its own/)
})

test('a quick run stays within its budget however many cases there are', async (t) => {
  const cases = Array.from({ length: 40 }, () => ({ subjects: ['flotilla', 'floor', 'a', 'b', 'c'] }))
  const many = paceOf([suiteOf(...cases)], true)
  t.ok(40 * 5 * (many.rounds * many.ms + many.warmupMs) < 40_000)
  t.ok(paceOf([suiteOf({})], false).ms >= 2_000)
})

test('ratios stand first in the table, and no figure is divided by nothing', async (t) => {
  const [result] = await run({
    subjects: ['flotilla', 'floor', 'wrong-body'],
    higherIsBetter: false,
    measure: async ({ subject }) => (subject === 'floor' ? 4 : 0)
  })
  t.same(result!.ratios, { 'flotilla/floor': 0, 'flotilla/wrong-body': 1 })
  const table = tableOf(result!)
  t.ok(table.indexOf('flotilla/floor 0.00×') < table.indexOf('median'))
  t.match(table, /lower is better/)
  const svg = chartOf(reportOf('a<b', true, [result!]))
  t.match(svg, /^<svg .*<\/svg>\n$/s)
  t.notMatch(svg, /NaN|Infinity|a<b/)
})
