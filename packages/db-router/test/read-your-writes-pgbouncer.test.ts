import t from 'tap'
import { checkScenario } from './fixtures/check-scenario.js'
import { startScenario } from './fixtures/scenario.js'

t.test(
  'an author reads its write back through PgBouncer in transaction mode, whatever the replicas do',
  async (sub) => {
    const scenario = await startScenario({ pgbouncer: true })
    sub.teardown(() => scenario.stop())
    await checkScenario(sub, scenario, 300)
  }
)
