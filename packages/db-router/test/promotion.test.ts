import { startPgBouncer, startPostgres, startProxy, until, type PostgresServer } from '@flotilla/testbed'
import type { FastifyInstance } from 'fastify'
import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import type { ConsistencyToken } from '../src/index.js'
import { codeOf, createApp } from './fixtures/app-in-process.js'
import { startPrimaryAndReplica } from './fixtures/primary-and-replica.js'

const monitor = { interval: 50, timeout: 3_000 }

async function promotionUnderLoad(sub: Test, pgbouncer: boolean): Promise<void> {
  const postgres = await startPostgres({ replicas: 2 })
  sub.teardown(() => postgres.stop())
  const { primary: old, replicas } = postgres
  const [promoted, follower] = replicas
  // Without it the app sees a replica's new timeline only after the replica's next restartpoint.
  await old.admin.query('grant pg_read_all_stats to app')
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

/**
 * A promotion that one app has seen and others have not: those took the old primary for the primary when it came, which
 * takes writes as before, and look at what they are told of alone. Their `POST /` writes 5.
 *
 * @returns them, a token from after the promotion, and the name of the primary that they are to find
 */
async function promoteUnseen(
  sub: Test,
  count: number
): Promise<{
  old: PostgresServer
  promoted: PostgresServer
  unaware: FastifyInstance[]
  token: ConsistencyToken
  name: string
}> {
  const { primary: old, replica: promoted } = await startPrimaryAndReplica(sub)
  const options = { primary: [old.url, promoted.url], consistency: true } as const
  const writer = await createApp(sub, { ...options, monitor })
  // What the promoted one says takes its time.
  const proxy = await startProxy(promoted)
  sub.teardown(() => proxy.stop())
  const once = {
    ...options,
    primary: [old.url, proxy.through(promoted.url)],
    monitor: { interval: '1h', timeout: 3_000 },
    tokenTtl: '3h'
  } as const
  const unaware: FastifyInstance[] = []
  for (let n = 0; n < count; n++) {
    const app = await createApp(sub, once, (one) => {
      one.post('/', async (request) => {
        await request.db.write.query('insert into writes values (5)')
        return ''
      })
    })
    await app.db.write.query('select 1')
    unaware.push(app)
  }
  proxy.delay(100)
  await promoted.promote()
  await until(() => writer.db.status().servers[0]!.state === 'fenced', { message: 'the writer has seen it' })
  await writer.db.write.query('insert into writes values (1)')
  return { old, promoted, unaware, token: writer.db.token()!, name: `${proxy.address}/app` }
}

t.test('a token tells an instance of a promotion it has not seen: the read waits for that', async (sub) => {
  const { unaware, token, name } = await promoteUnseen(sub, 3)
  const text = 'select count(*)::int as n from writes'
  sub.equal((await unaware[0]!.db.read.after(token).query(text)).rows[0]!['n'], 1, 'a statement')
  const client = await unaware[1]!.db.read.after(token).pool.connect()
  sub.equal((await client.query(text)).rows[0].n, 1, 'a connection')
  client.release()
  const job = unaware[2]!.db.session({ token })
  const transaction = job.transaction(async (tx) => tx.query(text), { readOnly: true })
  sub.equal((await transaction).rows[0]!['n'], 1, 'a transaction')
  for (const { db } of unaware) sub.equal(db.status().primary, name)
})

t.test('and a write does not go to the primary that was replaced', async (sub) => {
  const { old, promoted, unaware, token, name } = await promoteUnseen(sub, 4)
  await unaware[0]!.db.session({ token }).write.query('insert into writes values (2)')
  const client = await unaware[1]!.db.session({ token }).write.pool.connect()
  await client.query('insert into writes values (3)')
  client.release()
  const job = unaware[2]!.db.session({ token })
  await job.transaction(async (tx) => tx.query('insert into writes values (4)'))
  // Another instance's cookie.
  const headers = { cookie: `flotilla-db-other=${token}` }
  sub.equal((await unaware[3]!.inject({ method: 'POST', url: '/', headers })).statusCode, 200)
  sub.strictSame((await old.query('select id from writes')).rows, [])
  const { rows } = await promoted.query('select id from writes order by id')
  sub.strictSame(
    rows.map(({ id }) => id),
    [1, 2, 3, 4, 5]
  )
  for (const { db } of unaware) sub.equal(db.status().primary, name)
})

t.test('the same where one address leads to whichever takes writes', async (sub) => {
  const { primary: old, replica: promoted } = await startPrimaryAndReplica(sub)
  const proxy = await startProxy(old)
  sub.teardown(() => proxy.stop())
  const options = { monitor, carrier: false, consistency: true } as const
  const reader = await createApp(sub, { ...options, primary: proxy.through(old.url) })
  await reader.db.write.query('select 1')
  await promoted.promote()
  // What is open goes on leading to the old one, the monitor's connection too.
  proxy.redirect(promoted)
  const writer = await createApp(sub, { ...options, primary: promoted.url })
  await writer.db.write.query('insert into writes values (1)')
  const { rows } = await reader.db.read
    .after(writer.db.token())
    .query('select count(*)::int as n, inet_server_port() as port from writes')
  sub.strictSame(rows, [{ n: 1, port: promoted.port }])
})

t.test('promotion under load: writes resume, the old primary is fenced, old tokens stay right', (sub) =>
  promotionUnderLoad(sub, false)
)

t.test('promotion under load, through PgBouncer in transaction mode', (sub) => promotionUnderLoad(sub, true))
