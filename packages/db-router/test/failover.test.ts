import { startPgBouncer, startPostgres, until } from '@flotilla/testbed'
import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { createTokenCodec } from '../src/token.js'
import { codeOf, createApp, secret } from './fixtures/app-in-process.js'

const monitor = { interval: 50, timeout: 3_000 }

async function promotionUnderLoad(sub: Test, pgbouncer: boolean): Promise<void> {
  const postgres = await startPostgres({ replicas: 2 })
  sub.teardown(() => postgres.stop())
  const { primary: old, replicas } = postgres
  const [promoted, follower] = replicas
  await old.query('create table writes (id serial primary key, author int, mark text)')
  // Cascading: what the promoted one never got, its follower never has.
  await follower!.follow(promoted!)
  await postgres.waitForCatchUp()
  let urls = [old.url, promoted!.url, follower!.url] as const
  if (pgbouncer) {
    const bouncer = await startPgBouncer({ target: [old, promoted!, follower!] })
    sub.teardown(() => bouncer.stop())
    urls = [bouncer.url, ...bouncer.replicaUrls] as unknown as typeof urls
  }
  const app = await createApp(sub, {
    primary: [urls[0], urls[1]],
    replicas: [urls[2]],
    monitor,
    fallback: { wait: '10s' }
  })
  await app.db.write.query('insert into writes (author) values (-1)')
  const before = app.db.token()!
  await postgres.waitForCatchUp()

  const stop = new AbortController()
  const missed: string[] = []
  const outcomes = new Map<string, number>()
  const count = (what: string): void => void outcomes.set(what, (outcomes.get(what) ?? 0) + 1)
  const fencedAt = until(() => app.db.status().servers[0]!.state === 'fenced', {
    timeout: 20_000,
    message: 'the old primary is fenced'
  })
  const authors = Array.from({ length: 4 }, async (_none, author) => {
    while (!stop.signal.aborted) {
      const db = app.db.session()
      // Of its own, for the new primary gives the numbers out again that the old one gave out last.
      const mark = randomUUID()
      const code = await codeOf(
        db.write.query('insert into writes (author, mark) values ($1, $2)', [author, mark])
      )
      if (code !== undefined) {
        count(`write ${code}`)
        continue
      }
      count('written')
      const read = await codeOf(
        db.read.query('select 1 from writes where mark = $1', [mark]).then(({ rowCount }) => {
          if (rowCount === 1) count('read back')
          else missed.push(mark)
          return rowCount
        })
      )
      if (read !== undefined) count(`read ${read}`)
    }
  })
  await until(() => (outcomes.get('written') ?? 0) > 20, { message: 'writes run' })
  await promoted!.promote()
  await fencedAt
  const accepted = (await old.query('select count(*)::int as n from writes')).rows[0]!['n']
  const resumed = outcomes.get('written') ?? 0
  await until(() => (outcomes.get('written') ?? 0) > resumed + 20, { message: 'writes resume' })
  stop.abort()
  await Promise.all(authors)
  sub.comment(Object.fromEntries(outcomes))
  // Replication is asynchronous: what the old primary took last may be lost with it, and is then nowhere to read.
  const { rows: stale } = await promoted!.query('select mark from writes where mark = any($1)', [missed])
  sub.comment(`${missed.length} writes were lost in the failover`)
  sub.strictSame(stale, [], 'no stale read')
  sub.equal(
    (await old.query('select count(*)::int as n from writes')).rows[0]!['n'],
    accepted,
    'no write to the old primary after fencing'
  )
  sub.equal(app.db.status().primary, app.db.status().servers[1]!.name)
  sub.equal((await app.db.write.query('select inet_server_port() as port')).rows[0]!['port'], promoted!.port)
  sub.strictSame(
    [...outcomes.keys()].filter((one) => one.startsWith('read ') && one !== 'read back'),
    [],
    'no read failed'
  )

  const seen = await app.db.read
    .after(before)
    .query('select count(*)::int as n from writes where author = -1')
  sub.equal(seen.rows[0]!['n'], 1, 'a token of the old timeline still shows its write')
  await until(
    async () => {
      const { rows } = await app.db.read
        .after(before)
        .query('select inet_server_port() as port, count(*)::int as n from writes where author = -1')
      sub.equal(rows[0]!['n'], 1)
      return rows[0]!['port'] === follower!.port
    },
    { timeout: 20_000, message: 'a replica of the new timeline answers for a token of the old' }
  )
}

t.test('promotion under load: writes resume, the old primary is fenced, old tokens stay right', (sub) =>
  promotionUnderLoad(sub, false)
)

t.test('promotion under load, through PgBouncer in transaction mode', (sub) => promotionUnderLoad(sub, true))

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
