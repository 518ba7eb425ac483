import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { test, type Test } from 'tap'
import { invariants, Ledger, type Invariant } from '../src/soak/ledger.js'
import { faultNames, planFaults, randomFrom } from '../src/soak/plan.js'
import { timelineOf } from '../src/soak/timeline.js'

// A run lasts until what it breaks has shown, which takes its time on a busy machine.
t.setTimeout(900_000)

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
  t.notOk(ledger.disturbed(0, 1_000))
  let end = (): void => {}
  const fault = ledger.during('kill-instance 1', () => new Promise<void>((resolve) => (end = resolve)))
  t.ok(ledger.disturbed(ledger.now(), ledger.now()), 'while a fault lasts')
  end()
  await fault
  const { at, until } = ledger.events[0]!
  t.ok(ledger.disturbed(until - 1, until + 100), 'of what began before it had ended')
  t.notOk(ledger.disturbed(until + 1, until + 100), 'not of what began after')
  t.notOk(ledger.disturbed(0, at - 0.001), 'nor of what had ended before')
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

interface Account {
  seed: number
  broken: string[]
  violations: { invariant: Invariant; what: string }[]
}

/** A short run with these broken: how it ended, what it printed, and the account that it wrote. */
async function soak(t: Test, broken: string): Promise<{ code: number; output: string; account: Account }> {
  const out = await mkdtemp(join(tmpdir(), 'flotilla-soak-'))
  t.teardown(() => rm(out, { recursive: true }))
  const args = [MAIN, '--minutes', '0.1', '--seed', '5', '--break', broken, '--out', out]
  const env = { ...process.env, NODE_OPTIONS: '' }
  const { code, output } = await new Promise<{ code: number; output: string }>((resolve) => {
    execFile(process.execPath, args, { env }, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code) : 0, output: stdout + stderr })
    })
  })
  return { code, output, account: JSON.parse(await readFile(join(out, '5.json'), 'utf8')) as Account }
}

/** What each broken invariant is found by. A lagging replica excuses failures, so those are not broken together. */
const signs: Partial<Record<Invariant, RegExp>>[] = [
  {
    doubled: /^entry lane\d:\d+ came twice/,
    stampede: /^key \d+ was computed [2-9] times/,
    leak: /^app-\d: .* handles/,
    failed: /^GET \/me: 500/
  },
  {
    stale: /^lane\d wrote \d+ and read back \d+/,
    lost: /^\d+ of lane\d were lost/,
    resurrected: /^a revoked session was good for (ada|bob)-\d+/
  }
]

for (const found of signs) {
  const broken = Object.keys(found) as Invariant[]
  test(
    `a short run with ${broken.join(', ')} broken ends with 1 and names these alone`,
    { timeout: 400_000 },
    async (t) => {
      const { code, output, account } = await soak(t, broken.join(','))
      t.equal(code, 1, output)
      t.match(account, { seed: 5, broken })
      for (const name of Object.keys(invariants) as Invariant[]) {
        const mark = broken.includes(name) ? '✗' : '✓'
        t.ok(output.includes(`${mark} ${invariants[name]}`), `${mark} ${name}\n${output}`)
        const ofIt = account.violations.filter(({ invariant }) => invariant === name)
        t.equal(ofIt.length > 0, broken.includes(name))
        if (found[name])
          t.ok(
            ofIt.some(({ what }) => found[name]!.test(what)),
            ofIt[0]?.what ?? 'nothing'
          )
      }
    }
  )
}
