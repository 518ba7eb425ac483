import { startPostgres, until } from '@flotilla/testbed'
import t from 'tap'
import { createTokenCodec } from '../src/token.js'
import { codeOf, createApp, secret } from './fixtures/app-in-process.js'

const monitor = { interval: 50, timeout: 3_000 }

t.test(
  'the primary goes away: reads go on, writes wait and then say so; it comes back by itself',
  async (sub) => {
    const postgres = await startPostgres({ replicas: 1 })
    sub.teardown(() => postgres.stop())
    const { primary, replicas } = postgres
    const app = await createApp(sub, {
      primary: primary.url,
      replicas: [replicas[0]!.url],
      monitor,
      primaryWait: 300
    })
    await primary.kill()
    for (let n = 0; n < 50; n++) sub.equal(await codeOf(app.db.read.query('select 1')), undefined, 'a read')
    const failed = await app.db.write
      .query('select 1')
      .catch((error: unknown) => error as { code: string; statusCode: number; headers: object })
    sub.match(failed, {
      code: 'FLOTILLA_DB_ERR_NO_PRIMARY',
      statusCode: 503,
      headers: { 'retry-after': '1' }
    })
    await primary.restart()
    await until(async () => (await codeOf(app.db.write.query('select 1'))) === undefined, {
      message: 'writes resume'
    })
    sub.pass('writes resume by themselves')
  }
)

t.test('the promoted server goes away: the one it replaced does not get the writes back', async (sub) => {
  const postgres = await startPostgres({ replicas: 1 })
  sub.teardown(() => postgres.stop())
  const { primary: old, replicas } = postgres
  const promoted = replicas[0]!
  await old.query('create table writes (id int)')
  await postgres.waitForCatchUp()
  const app = await createApp(sub, {
    primary: [old.url, promoted.url],
    monitor,
    primaryWait: 500,
    consistency: true,
    carrier: false
  })
  await app.db.write.query('insert into writes values (1)')
  const { systemId } = createTokenCodec(secret).decode(app.db.token())!
  await promoted.promote()
  await until(() => app.db.status().servers[0]!.state === 'fenced', { message: 'the old primary is fenced' })
  await app.db.write.query('insert into writes values (2)')
  sub.match(createTokenCodec(secret).decode(app.db.token()), { systemId, timeline: 2 })
  const accepted = (await old.query('select count(*)::int as n from writes')).rows[0]!['n']

  await promoted.kill()
  await until(() => app.db.status().servers[1]!.state === 'down', { message: 'the new primary is down' })
  for (let n = 0; n < 3; n++) {
    sub.equal(await codeOf(app.db.write.query('insert into writes values (3)')), 'FLOTILLA_DB_ERR_NO_PRIMARY')
  }
  sub.match(app.db.status().servers[0], { state: 'fenced', reason: /promoted/ })
  sub.equal((await old.query('select count(*)::int as n from writes')).rows[0]!['n'], accepted)
  await promoted.restart()
  await until(async () => (await codeOf(app.db.write.query('insert into writes values (4)'))) === undefined, {
    message: 'writes resume'
  })
  sub.equal(app.db.status().primary, `127.0.0.1:${promoted.port}/app`)
})

t.test('a primary that turns replica is fenced by its first refusal (25006)', async (sub) => {
  const postgres = await startPostgres({ replicas: 1 })
  sub.teardown(() => postgres.stop())
  const { primary, replicas } = postgres
  await primary.query('create table writes (id int)')
  // The only look is the one at start: the refusal itself has to be what fences.
  const app = await createApp(sub, {
    primary: [primary.url, replicas[0]!.url],
    monitor: { interval: '1h', timeout: 3_000 },
    tokenTtl: '3h',
    carrier: false,
    consistency: true
  })
  await app.db.write.query('insert into writes values (1)')
  await primary.setSetting('default_transaction_read_only', true)
  await primary.terminateConnections()
  await until(
    async () =>
      (await codeOf(app.db.write.query('insert into writes values (2)'))) === 'FLOTILLA_DB_ERR_FENCED',
    {
      message: 'the refusal fences'
    }
  )
  // A look then shows that it is the primary after all: what refuses is a setting, and the server says so itself.
  await until(() => app.db.status().primary, { message: 'looked again' })
  sub.equal(await codeOf(app.db.write.query('insert into writes values (3)')), '25006')
  sub.equal((await app.db.write.query('select count(*)::int as n from writes')).rows[0]!['n'], 1)
})
