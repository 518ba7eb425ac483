import { startPostgres, until, type PostgresReplica } from '@flotilla/testbed'
import { Client } from 'pg'
import t from 'tap'
import { createTokenCodec } from '../src/token.js'
import { codeOf, createApp, secret } from './fixtures/app-in-process.js'
import { startPrimaryAndReplica } from './fixtures/primary-and-replica.js'
import { startRelay } from './fixtures/relay.js'

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

/**
 * Has one of its backends killed, as the kernel does when memory is short: the postmaster lives on, ends the others and
 * recovers, up to where changes were last written to disk. What came after is not applied again for a long time.
 */
async function crashBackToCheckpoint(replica: PostgresReplica): Promise<void> {
  const before = await replica.position()
  await replica.setDelay(600_000)
  const client = new Client({ connectionString: replica.url })
  client.on('error', () => {})
  await client.connect()
  const { rows } = await client.query('select pg_backend_pid() as pid')
  process.kill(rows[0].pid, 'SIGKILL')
  await until(
    async () =>
      (await replica.query('select 1 where pg_last_wal_replay_lsn() < $1::pg_lsn', [before])).rowCount,
    { timeout: 30_000, message: 'it has recovered, to an earlier place' }
  )
}

const COUNT = 'select count(*)::int as n, pg_is_in_recovery() as replica from writes'

t.test('a replica that recovers to an earlier place: what it had shown counts no more', async (sub) => {
  const { primary, replica } = await startPrimaryAndReplica(sub)
  const app = await createApp(sub, {
    primary: primary.url,
    replicas: [replica.url],
    monitor,
    maxLag: '1h',
    tokenTtl: '2h'
  })
  await app.db.write.query('insert into writes values (1)')
  const read = async (): Promise<unknown> => (await app.db.read.query(COUNT)).rows[0]
  await until(async () => ((await read()) as { replica: boolean }).replica, { message: 'the replica has it' })
  await crashBackToCheckpoint(replica)
  const monitors = "select 1 from pg_stat_activity where query like 'select % /* flotilla: monitor */'"
  await until(async () => (await replica.query(monitors)).rowCount, { message: 'it is looked at again' })
  await until(() => app.db.status().servers[1]!.state === 'up', { message: 'it is used again' })
  for (let n = 0; n < 10; n++) sub.strictSame(await read(), { n: 1, replica: false })
})

t.test('the same, where its monitor is not told: the next connection shows it', async (sub) => {
  const { primary, replica } = await startPrimaryAndReplica(sub)
  // The end of the first connection, which is the monitor's, is lost on its way.
  let connections = 0
  const port = await startRelay(sub, replica, (_client, upstream) => {
    if (connections++ === 0) upstream.removeAllListeners('close')
  })
  const app = await createApp(sub, {
    primary: primary.url,
    replicas: [replica.url.replace(`:${replica.port}/`, `:${port}/`)],
    monitor: { interval: '1h', timeout: 3_000 },
    maxWait: '10s',
    maxLag: '1h',
    tokenTtl: '4h',
    pool: { idleTimeout: 1 }
  })
  await app.db.write.query('insert into writes values (1)')
  const read = async (): Promise<unknown> => (await app.db.read.query(COUNT)).rows[0]
  sub.strictSame(await read(), { n: 1, replica: true })
  await until(() => app.db.status().servers[1]!.connections.total === 0, { message: 'the monitor is alone' })
  await crashBackToCheckpoint(replica)
  sub.strictSame(await read(), { n: 1, replica: false })
})

t.test('the promoted server goes away: the one it replaced does not get the writes back', async (sub) => {
  const { primary: old, replica: promoted } = await startPrimaryAndReplica(sub)
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
  const { primary, replica } = await startPrimaryAndReplica(sub)
  // The only look is the one at start: the refusal itself has to be what fences.
  const app = await createApp(sub, {
    primary: [primary.url, replica.url],
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
