import { startPostgres, until } from '@flotilla/testbed'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import t from 'tap'
import { codeOf, createApp } from './fixtures/app-in-process.js'

const [own, other] = await Promise.all([
  startPostgres({ replicas: 1 }),
  startPostgres({ replicas: 1, cluster: 'other' })
])
t.teardown(() => Promise.all([own.stop(), other.stop()]))
const [replica, foreign] = [own.replicas[0]!, other.replicas[0]!]
const name = ({ port }: { port: number }): string => `127.0.0.1:${port}/app`
const monitor = { interval: 50, timeout: 2_000 }
await own.primary.query('create table marks (n int)')
await own.waitForCatchUp()
await other.primary.query('create table marks (n int)')
await other.waitForCatchUp()

t.test('a replica of another cluster is named and never read from, whatever else is away', async (sub) => {
  const events: unknown[] = []
  const listen = (message: unknown): void => void events.push(message)
  subscribe('flotilla:db:server', listen)
  sub.teardown(() => unsubscribe('flotilla:db:server', listen))
  const app = await createApp(sub, {
    primary: own.primary.url,
    replicas: [replica.url, foreign.url],
    monitor
  })
  sub.match(app.db.status().servers[2], { state: 'foreign', reason: /another cluster/ })
  sub.match(
    events.filter((one) => (one as { event: string }).event === 'foreign'),
    [{ server: name(foreign) }]
  )
  const readAt = async (): Promise<unknown> =>
    (await app.db.read.query('select inet_server_port() as port')).rows[0]!['port']
  for (let n = 0; n < 30; n++) sub.equal(await readAt(), replica.port)
  // Its log is far ahead of ours: a position there must not pass for one here.
  await other.primary.query("select pg_logical_emit_message(true, 'f', repeat('x', 10000000))")
  await other.waitForCatchUp()
  for (let n = 1; n <= 20; n++) {
    await app.db.write.query('insert into marks values ($1)', [n])
    sub.equal((await app.db.read.query('select max(n)::int as n from marks')).rows[0]!['n'], n)
  }
  await replica.kill()
  for (let n = 0; n < 30; n++)
    sub.equal(await readAt(), own.primary.port, 'the primary, not the other cluster')
  await replica.restart()
})

t.test('a primary of another cluster gets no write, in whatever order the servers are seen', async (sub) => {
  const app = await createApp(sub, { primary: [own.primary.url, other.primary.url], monitor })
  const swapped = await createApp(sub, { primary: [other.primary.url, own.primary.url], monitor })
  const asReplica = await createApp(sub, { primary: own.primary.url, replicas: [other.primary.url], monitor })
  for (let n = 0; n < 5; n++) {
    for (const [one, expected] of [
      [app, own],
      [swapped, other],
      [asReplica, own]
    ] as const) {
      const { rows } = await one.db.write.query('select inet_server_port() as port')
      sub.equal(rows[0]!['port'], expected.primary.port, 'the first listed names the cluster')
    }
  }
})

t.test('a later timeline of another cluster fences nothing', async (sub) => {
  await foreign.promote()
  const app = await createApp(sub, {
    primary: own.primary.url,
    replicas: [foreign.url, replica.url],
    monitor,
    primaryWait: 2_000
  })
  sub.equal(await codeOf(app.db.write.query('select 1')), undefined)
  sub.equal(app.db.status().primary, name(own.primary))
  sub.equal(app.db.status().servers[1]!.state, 'foreign')
})

t.test('started while the primary is away: it says which cluster is meant once it is back', async (sub) => {
  const insert = 'insert into marks values (0)'
  const start = (replicas: string[]): ReturnType<typeof createApp> =>
    createApp(sub, { primary: own.primary.url, replicas, monitor, primaryWait: 300 })
  await own.primary.kill()
  // The first one takes writes and was promoted, as a successor of ours would be.
  const several = await start([foreign.url, replica.url])
  await until(() => several.db.status().servers.some(({ state }) => state === 'foreign'), {
    message: 'the servers are seen to be of two clusters'
  })
  sub.equal(await codeOf(several.db.write.query(insert)), 'FLOTILLA_DB_ERR_NO_PRIMARY')
  await replica.kill()
  // Nothing of ours is left to contradict it.
  const alone = await start([other.primary.url, replica.url])
  sub.equal(await codeOf(alone.db.write.query(insert)), 'FLOTILLA_DB_ERR_NO_PRIMARY')

  await own.primary.restart()
  await replica.restart()
  for (const app of [several, alone]) {
    await until(() => app.db.status().primary === name(own.primary), { message: 'the primary is back' })
    await until(() => app.db.status().servers[2]!.state === 'up', { message: 'its replica is recognised' })
    sub.equal(app.db.status().servers[1]!.state, 'foreign')
    sub.equal(await codeOf(app.db.write.query(insert)), undefined)
  }
  for (const server of [other.primary, foreign]) {
    sub.equal((await server.query('select count(*)::int as n from marks where n = 0')).rows[0]!['n'], 0)
  }
})

t.test(
  'started after a failover: the promoted one takes writes though the listed one is gone',
  async (sub) => {
    await own.primary.kill()
    await replica.promote()
    const app = await createApp(sub, { primary: own.primary.url, replicas: [replica.url], monitor })
    await until(() => app.db.status().primary === name(replica), { message: 'it is the primary' })
    sub.equal(await codeOf(app.db.write.query('select 1')), undefined)
  }
)
