import { startApp } from '@flotilla/testbed'
import t, { type Test } from 'tap'
import { runPairs, type PairReport } from './fixtures/pairs.js'
import { faultsInTurn, startScenario, type Scenario } from './fixtures/scenario.js'

const script = new URL('fixtures/app.ts', import.meta.url)

function show(sub: Test, name: string, report: PairReport): void {
  const share = ((100 * report.fromReplicas) / report.pairs).toFixed(1)
  sub.comment(
    `${name}: ${report.pairs} pairs, ${report.stale} stale, ${share} % from replicas, ` +
      `read p99 ${report.readP99.toFixed(0)} ms, max ${report.readMax.toFixed(0)} ms`
  )
}

/** Replicas that follow, then replicas that are delayed, paused, stopped, cut off and killed in turn. */
async function checkScenario(sub: Test, scenario: Scenario, pairs: number): Promise<void> {
  const urls = scenario.fleet.urls
  const following = await runPairs({ urls, pairs, authors: 12 })
  show(sub, 'following', following)
  sub.equal(following.stale, 0, 'no stale read')
  sub.strictSame([...following.errors], [], 'nothing failed')
  sub.ok(following.fromReplicas > 0, 'replicas answer')

  const over = new AbortController()
  const faults = faultsInTurn(scenario, over.signal, 500)
  const report = await runPairs({ urls, pairs: pairs * 3, authors: 12 })
  over.abort()
  show(sub, (await faults).join(', '), report)
  sub.equal(report.stale, 0, 'no stale read')
  sub.strictSame([...report.errors], [], 'nothing failed')
  sub.ok(report.readP99 < 3_000, 'reads stay within a bound')
}

t.test('an author reads its write back through any instance, whatever the replicas do', async (sub) => {
  const scenario = await startScenario()
  sub.teardown(() => scenario.stop())
  await checkScenario(sub, scenario, 400)

  // The proof that the checker sees what it looks for.
  const { env, postgres } = scenario
  await postgres.replicas[0]!.setDelay(100)
  const off = await startApp({
    script,
    instances: 3,
    env: { ...env, OPTIONS: JSON.stringify({ consistency: false }) }
  })
  sub.teardown(() => off.stop())
  const report = await runPairs({ urls: off.urls, pairs: 200, authors: 12 })
  show(sub, 'the gate turned off', report)
  sub.ok(report.stale > 0, 'with the gate turned off, stale reads are found')
})

t.test('the same through PgBouncer in transaction mode', async (sub) => {
  const scenario = await startScenario({ pgbouncer: true })
  sub.teardown(() => scenario.stop())
  await checkScenario(sub, scenario, 300)
})
