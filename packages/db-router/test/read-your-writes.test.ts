import { startApp } from '@flotilla/testbed'
import t from 'tap'
import { checkScenario, show } from './fixtures/check-scenario.js'
import { runPairs } from './fixtures/pairs.js'
import { startScenario } from './fixtures/scenario.js'

const script = new URL('fixtures/app.ts', import.meta.url)

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
