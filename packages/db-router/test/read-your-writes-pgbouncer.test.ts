import { listen, startPgBouncer, startPostgres } from '@flotilla/testbed'
import t from 'tap'
import type { GateMessage } from '../src/index.js'
import { createApp } from './fixtures/app-in-process.js'
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

t.test('a connection that can not say where it leads is of the primary, and told once', async (sub) => {
  const postgres = await startPostgres({ replicas: 1 })
  sub.teardown(() => postgres.stop())
  const bouncer = await startPgBouncer({ target: [postgres.primary, postgres.replicas[0]!] })
  sub.teardown(() => bouncer.stop())
  await postgres.primary.query('create table marks (n int)')
  await postgres.waitForCatchUp()
  const app = await createApp(sub, {
    primary: bouncer.url,
    replicas: bouncer.replicaUrls,
    maxWait: '10s',
    maxLag: '50s',
    tokenTtl: '2m'
  })
  const job = app.db.session()
  await job.write.query('insert into marks values (1)')
  await postgres.waitForCatchUp()
  // The replica has it, and is known to.
  sub.equal((await job.read.query('select pg_is_in_recovery() as replica')).rows[0]!['replica'], true)
  const gates = listen<GateMessage>(sub, 'flotilla:db:gate')
  const kept = await job.read.pool.connect()
  sub.equal((await kept.query('select pg_is_in_recovery() as replica')).rows[0].replica, false)
  kept.release()
  sub.match(gates, [{ outcome: 'primary', durationMs: Number }])
  sub.equal(gates.splice(0).length, 1)
  const { rows } = await job.transaction(
    async (tx) => tx.query('select pg_is_in_recovery() as replica, max(n)::int as n from marks'),
    { readOnly: true }
  )
  sub.strictSame(rows, [{ replica: false, n: 1 }])
  sub.match(gates, [{ outcome: 'primary', durationMs: Number }])
  sub.equal(gates.length, 1)
})
