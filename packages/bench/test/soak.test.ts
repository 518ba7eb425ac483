import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'tap'
import { Ledger } from '../src/soak/ledger.js'
import { faultNames, planFaults, randomFrom } from '../src/soak/plan.js'
import { timelineOf } from '../src/soak/timeline.js'

const MAIN = fileURLToPath(new URL('../dist/soak/main.js', import.meta.url))

test('the same seed gives the same faults, another seed others', async (t) => {
  t.same(planFaults(7, 600_000, 3), planFaults(7, 600_000, 3))
  t.notSame(planFaults(7, 600_000, 3), planFaults(8, 600_000, 3))
  const plan = planFaults(7, 600_000, 3)
  t.same(new Set(plan.map(({ fault }) => fault)), new Set(faultNames), 'ten minutes meet every kind')
  t.equal(plan.filter(({ fault }) => fault === 'promotion').length, 1)
  t.ok(plan.every(({ at, target }) => at >= 8_000 && at < 592_000 && target >= 0 && target < 3))
  t.same(planFaults(7, 10_000, 3), [], 'too short for any')
  const random = randomFrom(1)
  const drawn = Array.from({ length: 1_000 }, random)
  t.ok(drawn.every((one) => one >= 0 && one < 1) && new Set(drawn).size > 990)
})

test('the ledger knows when the fleet was disturbed', async (t) => {
  const ledger = new Ledger()
  t.notOk(ledger.disturbed(0, 1_000, 0))
  let end = (): void => {}
  const fault = ledger.during('kill-instance 1', () => new Promise<void>((resolve) => (end = resolve)))
  t.ok(ledger.disturbed(ledger.now(), ledger.now(), 0), 'while a fault lasts')
  end()
  await fault
  const later = ledger.now() + 50
  t.notOk(ledger.disturbed(later, later, 10))
  t.ok(ledger.disturbed(later, later, 1_000), 'until it has settled')
  ledger.check('stale', true, '')
  ledger.check('stale', false, 'read an old value')
  ledger.count('answered')
  t.match(ledger.account(), {
    checked: { stale: 2 },
    violations: [{ invariant: 'stale' }],
    seconds: [{ answered: 1 }]
  })
  const svg = timelineOf(ledger, 'soak')
  t.match(svg, /^<svg .*class="violation".*<\/svg>\n$/s)
  t.notMatch(svg, /NaN/)
})

test('a short run with a broken invariant ends with 1, names it, and writes the account', async (t) => {
  const out = await mkdtemp(join(tmpdir(), 'flotilla-soak-'))
  t.teardown(() => rm(out, { recursive: true }))
  const { code, output } = await new Promise<{ code: number; output: string }>((resolve) => {
    const args = [MAIN, '--minutes', '0.1', '--seed', '5', '--break', 'doubled', '--out', out]
    execFile(
      process.execPath,
      args,
      { env: { ...process.env, NODE_OPTIONS: '' } },
      (error, stdout, stderr) => {
        resolve({ code: error ? Number(error.code) : 0, output: stdout + stderr })
      }
    )
  })
  t.equal(code, 1, output)
  t.match(output, /✗ no message comes twice or out of order/)
  t.match(output, /✓ a visitor reads what it wrote/)
  t.match(JSON.parse(await readFile(join(out, '5.json'), 'utf8')), { seed: 5, broken: 'doubled' })
})
