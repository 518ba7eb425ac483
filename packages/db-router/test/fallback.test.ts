import { startPostgres, until } from '@flotilla/testbed'
import t from 'tap'
import { codeOf, createApp } from './fixtures/app-in-process.js'

const monitor = { interval: 50, timeout: 3_000 }

t.test(
  'no replica left: the primary answers within its budget, the rest is told to come back',
  async (sub) => {
    const postgres = await startPostgres({ replicas: 1 })
    sub.teardown(() => postgres.stop())
    const { primary, replicas } = postgres
    const app = await createApp(sub, {
      primary: primary.url,
      replicas: [replicas[0]!.url],
      monitor,
      fallback: { concurrency: 2, maxWaiting: 3, wait: 5_000 }
    })
    await replicas[0]!.kill()
    await until(() => app.db.status().servers[1]!.state === 'down', {
      message: 'the replica is known to be down'
    })
    const reads = Array.from({ length: 12 }, () => codeOf(app.db.read.query('select pg_sleep(0.1)')))
    const writing = codeOf(app.db.write.query('select 1'))
    const codes = await Promise.all(reads)
    sub.equal(codes.filter((code) => code === undefined).length, 5, 'two at a time and three in line')
    sub.equal(codes.filter((code) => code === 'FLOTILLA_DB_ERR_OVER_BUDGET').length, 7)
    sub.equal(await writing, undefined, 'writes keep their connections')
    const failed = await Promise.all(
      Array.from({ length: 6 }, () =>
        app.db.read.query('select pg_sleep(0.1)').catch((error: unknown) => error)
      )
    )
    sub.match(failed.at(-1), { statusCode: 503, headers: { 'retry-after': /^\d+$/ } })
  }
)

t.test(
  'lag: a replica too far behind is left until it has caught up; an idle primary is no lag',
  async (sub) => {
    const postgres = await startPostgres({ replicas: 1 })
    sub.teardown(() => postgres.stop())
    const { primary, replicas } = postgres
    const replica = replicas[0]!
    await primary.query('create table writes (id int)')
    const app = await createApp(sub, { primary: primary.url, replicas: [replica.url], monitor, maxLag: 300 })
    const status = (): ReturnType<typeof app.db.status>['servers'][number] => app.db.status().servers[1]!
    await replica.pauseReplay()
    await app.db.write.query('insert into writes values (1)')
    await until(() => status().state === 'ejected', { message: 'the replica is ejected' })
    sub.ok(status().lag! > 300)
    sub.equal((await app.db.read.query('select pg_is_in_recovery() as r')).rows[0]!['r'], false)
    await replica.resumeReplay()
    await until(() => status().state === 'up', { message: 'the replica is back' })
    // Nothing is written for longer than maxLag.
    const idleUntil = performance.now() + 600
    await until(
      () => {
        sub.equal(status().state, 'up')
        return performance.now() > idleUntil
      },
      { message: 'an idle while' }
    )
  }
)
