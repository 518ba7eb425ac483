import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'tap'
import { parseCommand, UsageError } from '../src/harness/command-line.js'
import type { Report } from '../src/harness/report.js'

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url))

function bench(...args: string[]): Promise<{ code: number; output: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, ['--import=tsx', MAIN, ...args], (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code) : 0, output: stdout + stderr })
    })
  })
}

test('the command line', async (t) => {
  const suites = ['session', 'cache']
  t.match(parseCommand([], suites), { suite: 'all', cases: [], quick: false, json: undefined })
  t.match(parseCommand(['--', 'cache', 'peek', '--quick', '--rounds', '3'], suites), {
    suite: 'cache',
    cases: ['peek'],
    quick: true,
    rounds: 3
  })
  const given = process.env['INIT_CWD']
  process.env['INIT_CWD'] = '/somewhere'
  t.equal(parseCommand(['--json', 'out.json'], suites).json, '/somewhere/out.json')
  if (given === undefined) delete process.env['INIT_CWD']
  else process.env['INIT_CWD'] = given
  for (const args of [['sessions'], ['--fast'], ['--rounds', '0'], ['--ms', 'x'], ['--json']]) {
    t.throws(() => parseCommand(args, suites), UsageError, args.join(' '))
  }
})

test('a bad command line exits with 2 and says what there is', async (t) => {
  const suite = await bench('sessions')
  t.equal(suite.code, 2)
  t.match(suite.output, /no suite "sessions"; there are session, cache, ws, db, health and all/)
  const one = await bench('health', 'prob')
  t.equal(one.code, 2)
  t.match(one.output, /no case "prob"; there are .*probe/)
})

test('a quick run writes its figures as JSON', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'flotilla-bench-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const file = join(folder, 'out.json')
  const { code, output } = await bench('health', 'probe', '--quick', '--json', file, '--svg', folder)
  t.equal(code, 0, output)
  const report = JSON.parse(await readFile(file, 'utf8')) as Report
  t.match(report, { suite: 'health', node: process.version, quick: true })
  const [probe] = report.cases
  t.match(probe, { case: 'probe', unit: 'req/s', higherIsBetter: true })
  t.equal(probe!.results[0]!.subject, 'flotilla')
  for (const { median, min, max, rounds } of probe!.results)
    t.ok(min > 0 && min <= median && median <= max && rounds > 0)
  t.type(probe!.ratios['flotilla/bare'], 'number')
  t.match(await readFile(join(folder, 'health.svg'), 'utf8'), /^<svg/)
})
