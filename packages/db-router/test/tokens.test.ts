import { createSigner } from '@flotilla/core'
import { startPgBouncer, startPostgres, until } from '@flotilla/testbed'
import t, { type Test } from 'tap'
import { createTokenCodec, covers, laterOf } from '../src/token.js'
import { endOfRecord, formatLsn, parseLsn } from '../src/lsn.js'
import { WalHistory } from '../src/wal-history.js'
import { codeOf, createApp, secret } from './fixtures/app-in-process.js'
import { startRelay } from './fixtures/relay.js'

const layout = { blockSize: 8192, segmentSize: 16 * 1024 * 1024 }

t.test('LSNs', async (sub) => {
  sub.equal(parseLsn('16/B374D848'), 0x16b374d848n)
  sub.equal(formatLsn(0x16b374d848n), '16/B374D848')
  for (const bad of ['', '1', 'x/1', '1/123456789', null, 5]) sub.equal(parseLsn(bad), undefined)
  sub.equal(endOfRecord(8192n * 3n + 24n, layout), 8192n * 3n, 'the header of a page is not a record')
  sub.equal(
    endOfRecord(BigInt(layout.segmentSize) * 5n + 40n, layout),
    BigInt(layout.segmentSize) * 5n,
    'nor that of a file'
  )
  sub.equal(endOfRecord(8192n * 3n + 32n, layout), 8192n * 3n + 32n)
  sub.equal(endOfRecord(8192n * 3n + 40n, layout), 8192n * 3n + 40n, 'only a first page has the long header')
  sub.equal(endOfRecord(8192n * 3n + 24n, undefined), 8192n * 3n + 24n)
})

t.test('tokens', async (sub) => {
  const position = { systemId: 0xfedcba9876543210n, timeline: 3, lsn: 0x16b374d848n }
  const plain = createTokenCodec(undefined)
  const signed = createTokenCodec(secret)
  for (const codec of [plain, signed]) sub.strictSame(codec.decode(codec.encode(position)), position)
  const token = signed.encode(position)
  const forged = `${plain.encode({ ...position, lsn: 0xffffffffffffffffn })}${token.slice(27)}`
  const foreign = createSigner('another secret of thirty-two bytes!', 'db-token').sign(plain.encode(position))
  for (const bad of [
    '',
    'x',
    token.slice(0, -1),
    token.slice(1),
    `${token}x`,
    forged,
    foreign,
    plain.encode(position),
    'a'.repeat(10_000),
    5,
    null,
    {}
  ]) {
    sub.equal(signed.decode(bad), undefined)
  }
  const newer = 'a newer secret of thirty-two bytes or so'
  const rotated = createTokenCodec([newer, secret])
  sub.strictSame(rotated.decode(token), position, 'an older secret still verifies')
  const prepared = createTokenCodec([secret, newer])
  sub.strictSame(prepared.decode(rotated.encode(position)), position, 'and a newer one already does')
  sub.ok(
    covers({ ...position, timeline: 4, lsn: 0n }, position),
    'a later timeline covers what survived of the earlier'
  )
  sub.notOk(covers({ ...position, systemId: 1n }, position))
  sub.strictSame(laterOf({ ...position, lsn: 1n }, position), position)
})

t.test('the history turns positions into time', async (sub) => {
  const history = new WalHistory()
  history.add(0, 1, 100n)
  history.add(1_000, 1, 200n)
  history.add(2_000, 1, 200n)
  sub.equal(history.lag(5_000, 1, 200n), 0, 'an idle primary is no lag')
  sub.equal(history.lag(5_000, 1, 150n), 4_000)
  sub.equal(history.age(5_000, 1, 150n), 4_000)
  sub.equal(history.age(5_000, 1, 999n), 0, 'news')
  history.add(6_000, 2, 50n)
  sub.equal(history.lag(7_000, 1, 999n), 1_000, 'a replica on the old timeline lags since the promotion')
  sub.equal(history.firstOf(2), 50n)
  for (let n = 1; n < 5_000; n++) history.add(7_000 + n * 10, 2, 50n + BigInt(n))
  sub.equal(history.lag(60_000, 2, 50n + 4_998n), 60_000 - 56_990)
})

const postgres = await startPostgres({ replicas: 1 })
t.teardown(() => postgres.stop())
const { primary, replicas } = postgres
const servers = { primary: primary.url, replicas: [replicas[0]!.url] }
await primary.query('create table marks (n int)')
await postgres.waitForCatchUp()

t.test('a page start: what is captured there is what a replica comes to report', async (sub) => {
  const app = await createApp(sub, { ...servers, maxWait: '5s' })
  const codec = createTokenCodec(secret)
  let headers = 0
  for (let n = 0; n < 2_000 && headers < 2; n++) {
    // Records of a size that lets positions fall on every place of a page.
    await app.db.write.query("select pg_logical_emit_message(true, 'f', repeat('x', $1))", [(n * 88) % 2_000])
    if (codec.decode(app.db.token())!.lsn % 8192n !== 0n) continue
    headers++
    const started = performance.now()
    await app.db.read.query('select 1')
    sub.ok(performance.now() - started < 2_000, 'no wait for a record that nobody writes')
  }
  sub.comment(`${headers} positions at a page start`)
})

/** A relay to a server that counts the flights: how often the client spoke after the server had. */
async function countFlights(
  sub: Test,
  target: { host: string; port: number }
): Promise<{ port: number; flights: () => number }> {
  let flights = 0
  const port = await startRelay(sub, target, (client, upstream) => {
    let clientsTurn = true
    client.on('data', () => {
      if (clientsTurn) flights++
      clientsTurn = false
    })
    upstream.on('data', () => (clientsTurn = true))
  })
  return { port, flights: () => flights }
}

t.test('knowing the position of a write costs no round trip', async (sub) => {
  for (const consistency of [false, true]) {
    const relay = await countFlights(sub, primary)
    const app = await createApp(sub, {
      primary: primary.url.replace(`:${primary.port}/`, `:${relay.port}/`),
      replicas: servers.replicas,
      consistency,
      // Nothing else speaks meanwhile.
      monitor: { interval: '1h' },
      tokenTtl: '3h'
    })
    const flightsOf = async (work: () => Promise<unknown>): Promise<number> => {
      const before = relay.flights()
      for (let n = 0; n < 20; n++) await work()
      return (relay.flights() - before) / 20
    }
    const insert = (): Promise<unknown> => app.db.write.query('insert into marks values ($1)', [0])
    // Makes the connection, and has the question prepared.
    await insert()
    sub.equal(await flightsOf(insert), 1, 'a write')
    const move = (): Promise<unknown> =>
      app.db.transaction(async (tx) => {
        await tx.query('insert into marks values ($1)', [0])
        return tx.query('select max(n) from marks')
      })
    sub.equal(await flightsOf(move), 3, 'BEGIN goes with the first statement, the question with COMMIT')
    sub.equal(app.db.token() !== undefined, consistency)
  }
})

t.test('that a read at the primary can not write costs no round trip', async (sub) => {
  const bouncer = await startPgBouncer({ target: primary })
  sub.teardown(() => bouncer.stop())
  for (const target of [primary, bouncer]) {
    const relay = await countFlights(sub, target)
    const app = await createApp(sub, {
      primary: target.url.replace(`:${target.port}/`, `:${relay.port}/`),
      pool: { max: 1 },
      monitor: { interval: '1h' },
      tokenTtl: '3h'
    })
    const write = (): Promise<unknown> => app.db.write.query('insert into marks values ($1)', [0])
    const read = (): Promise<unknown> => app.db.read.query('select max(n) from marks where n > $1', [0])
    await write()
    const before = relay.flights()
    for (let n = 0; n < 5; n++) for (const ask of [read, read, write, write]) await ask()
    sub.equal(relay.flights() - before, 20)
  }
})

t.test('tokens go from one handle to another, and to another app', async (sub) => {
  const writer = await createApp(sub, servers)
  const reader = await createApp(sub, servers)
  for (let n = 1; n <= 30; n++) {
    const job = writer.db.session()
    sub.equal(job.token(), undefined)
    await job.write.query('insert into marks values ($1)', [n])
    const { rows } = await reader.db.read.after(job.token()).query('select max(n)::int as n from marks')
    sub.equal(rows[0]!['n'], n)
    const other = reader.db.session({ token: job.token() })
    sub.equal((await other.read.pool.query('select max(n)::int as n from marks')).rows[0].n, n)
    sub.ok(writer.db.token(), 'the instance has a token that covers it')
    sub.equal(
      (await reader.db.read.after(writer.db.token()).query('select max(n)::int as n from marks')).rows[0]![
        'n'
      ],
      n
    )
  }
})

t.test(
  'forged, truncated, foreign and far-future tokens: answered, in bounded time, from the primary if it may have the write',
  async (sub) => {
    const app = await createApp(sub, { ...servers, maxWait: 100, primaryWait: 300 })
    await app.db.write.query('insert into marks values (0)')
    const codec = createTokenCodec(secret)
    const known = codec.decode(app.db.token())!
    const odd: Record<string, string> = {
      garbage: 'garbage',
      empty: '',
      truncated: app.db.token()!.slice(0, 20),
      'of another cluster': codec.encode({ ...known, systemId: known.systemId + 1n }),
      'of the far future': codec.encode({ ...known, lsn: 0xffffffffffffffffn })
    }
    for (const [what, token] of Object.entries(odd)) {
      const started = performance.now()
      const { rows } = await app.db.read.after(token).query('select pg_is_in_recovery() as replica')
      const took = performance.now() - started
      sub.equal(rows[0]!['replica'], false, `${what}: from the primary`)
      sub.ok(took < 1_500, `${what}: ${took.toFixed(0)} ms`)
    }
    // Such as one from before the cluster was set up again from a backup: what it stands for, no server can have.
    const lost = codec.encode({ ...known, timeline: known.timeline + 7 })
    const read = app.db.read.after(lost).query('select 1')
    sub.match(await read.catch((error: unknown) => error as Error), {
      code: 'FLOTILLA_DB_ERR_NO_PRIMARY',
      statusCode: 503,
      message: /timeline 8/
    })
    sub.equal(await codeOf(app.db.read.query('select 1')), undefined, 'other reads are not held up')
  }
)

t.test('a write of unknown outcome is followed into the next request', async (sub) => {
  const app = await createApp(sub, servers, (one) => {
    one.post('/cut', async (request) => {
      const code = await codeOf(request.db.write.query('select pg_terminate_backend(pg_backend_pid())'))
      return { code }
    })
    one.post('/late', async (request) => ({
      code: await codeOf(request.db.write.query('select pg_sleep(30)', [], { timeout: 50 }))
    }))
  })
  for (const [url, code] of [
    ['/cut', 'FLOTILLA_DB_ERR_OUTCOME_UNKNOWN'],
    ['/late', 'FLOTILLA_DB_ERR_TIMEOUT']
  ] as const) {
    const answer = await app.inject({ method: 'POST', url })
    sub.equal(answer.json().code, code)
    sub.match(answer.headers['set-cookie'], /^flotilla-db-/, 'a later position is carried')
  }
})

t.test('a session whose write could not be followed reads from the primary', async (sub) => {
  const app = await createApp(sub, servers)
  const job = app.db.session()
  const kept = job.read.after(undefined)
  const writing = codeOf(job.write.query('select pg_sleep(5) /* unknown */'))
  await until(
    async () =>
      (
        await primary.query(
          "select 1 from pg_stat_activity where query like '%/* unknown */' and pid <> pg_backend_pid()"
        )
      ).rowCount,
    { message: 'it runs' }
  )
  await primary.terminateConnections()
  sub.equal(await writing, 'FLOTILLA_DB_ERR_OUTCOME_UNKNOWN')
  for (const reader of [job.read, kept])
    sub.equal((await reader.query('select pg_is_in_recovery() as r')).rows[0]!['r'], false)
})

t.test('a reader that is kept sees what its author writes later', async (sub) => {
  const app = await createApp(sub, servers)
  await app.db.write.query('insert into marks values (100)')
  const kept = app.db.read.after(app.db.token())
  const read = async (): Promise<unknown> => (await kept.query('select max(n) as n from marks')).rows[0]!['n']
  sub.equal(await read(), 100)
  await replicas[0]!.pauseReplay()
  sub.teardown(() => replicas[0]!.resumeReplay())
  await app.db.write.query('insert into marks values (101)')
  sub.equal(await read(), 101)
})
