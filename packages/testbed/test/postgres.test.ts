import { Client } from 'pg'
import { test } from 'tap'
import { startPgBouncer, startPostgres, until } from '../src/index.js'

test('a primary and two replicas: each fault does what it says', async (t) => {
  const group = await startPostgres({ replicas: 2, settings: { work_mem: '1MB' } })
  t.teardown(() => group.stop())
  const { primary } = group
  const [first, second] = group.replicas as [(typeof group.replicas)[0], (typeof group.replicas)[0]]
  const seen = async (server: typeof primary): Promise<number> =>
    Number((await server.query('SELECT count(*) AS count FROM notes')).rows[0]?.['count'])

  await primary.query('CREATE TABLE notes (id int)')
  await primary.query('INSERT INTO notes VALUES (1)')
  await group.waitForCatchUp()
  t.equal(await seen(first), 1)
  t.equal(await seen(second), 1)
  await t.rejects(first.query('INSERT INTO notes VALUES (2)'), /read-only/)
  t.equal((await primary.query('SHOW work_mem')).rows[0]?.['work_mem'], '1MB')

  await first.setDelay(600_000)
  await primary.query('INSERT INTO notes VALUES (2)')
  await second.waitForCatchUp()
  t.equal(await seen(first), 1, 'delayed')
  await first.setDelay(0)
  await first.waitForCatchUp()
  t.equal(await seen(first), 2, 'no longer delayed')

  await second.pauseReplay()
  await primary.query('INSERT INTO notes VALUES (3)')
  await first.waitForCatchUp()
  t.equal(await seen(second), 2, 'paused')
  await second.resumeReplay()
  await second.waitForCatchUp()
  t.equal(await seen(second), 3)

  const { port } = primary
  await primary.kill()
  await t.rejects(primary.query('SELECT 1'))
  t.equal(await seen(first), 3, 'a replica serves on without its primary')
  await primary.restart()
  t.equal(primary.port, port)
  await primary.query('INSERT INTO notes VALUES (4)')
  await group.waitForCatchUp()
  t.equal(await seen(first), 4)

  second.pause()
  const silent = new Client({ connectionString: second.url, connectionTimeoutMillis: 200 })
  silent.on('error', () => {})
  await t.rejects(silent.connect(), /timeout/)
  second.resume()
  await second.waitForCatchUp()

  const client = new Client({ connectionString: primary.url })
  const broken = new Promise((resolve) => client.on('error', resolve))
  await client.connect()
  t.ok((await primary.terminateConnections()) >= 1)
  t.match(await broken, /terminat/)

  await first.promote()
  await first.query('INSERT INTO notes VALUES (5)')
  t.equal(await seen(first), 5)
  t.equal(await seen(primary), 4)
})

test('a database of another name, a password that is asked for, and a replica that comes later', async (t) => {
  const group = await startPostgres({ replicas: 0, database: 'shop "1"' })
  t.teardown(() => group.stop())
  const { primary } = group
  t.equal((await primary.query('SELECT current_database() AS name')).rows[0]?.['name'], 'shop "1"')
  const wrong = primary.url.replace(/:[^:@]*@/, ':wrong@')
  await t.rejects(new Client({ connectionString: wrong }).connect(), /password authentication failed/)

  await primary.query('CREATE TABLE notes AS SELECT 1 AS id')
  const replica = await group.addReplica()
  await replica.waitForCatchUp()
  t.equal((await replica.query('SELECT count(*)::int AS count FROM notes')).rows[0]?.['count'], 1)
})

test('PgBouncer pools transactions to the primary and to the replica, with the deployed settings', async (t) => {
  const group = await startPostgres()
  t.teardown(() => group.stop())
  const bouncer = await startPgBouncer({
    target: [group.primary, ...group.replicas],
    settings: { default_pool_size: 1 }
  })
  t.teardown(() => bouncer.stop())
  const clients = [bouncer.url, bouncer.url, ...bouncer.replicaUrls].map(
    (connectionString) => new Client({ connectionString })
  )
  await Promise.all(clients.map((client) => client.connect()))
  const [one, other, replica] = clients as [Client, Client, Client]
  const pid = async (client: Client): Promise<number> =>
    (await client.query('SELECT pg_backend_pid() AS pid')).rows[0].pid
  t.equal(await pid(one), await pid(other), 'one server connection serves both between transactions')
  t.equal((await replica.query('SELECT pg_is_in_recovery() AS replica')).rows[0].replica, true)
  await Promise.all(clients.map((client) => client.end()))

  const wrong = new Client({ connectionString: bouncer.url.replace(/:[^:@]*@/, ':wrong@') })
  await t.rejects(wrong.connect(), /SASL authentication failed/)

  const admin = new Client({ connectionString: bouncer.consoleUrl })
  await admin.connect()
  const { rows } = await admin.query('SHOW CONFIG')
  const setting = (key: string): unknown => rows.find((row) => row.key === key)?.value
  t.equal(setting('pool_mode'), 'transaction')
  t.equal(setting('auth_type'), 'scram-sha-256')
  t.equal(setting('max_client_conn'), '1000')
  await admin.end()

  await bouncer.restart()
  const again = new Client({ connectionString: bouncer.url })
  await until(() => again.connect().then(() => true))
  await again.end()
})

test('the app proves its password and has the rights of an owner, and no others', async (t) => {
  const group = await startPostgres()
  t.teardown(() => group.stop())
  const { primary } = group
  const replica = group.replicas[0]!
  const bouncer = await startPgBouncer({ target: primary })
  t.teardown(() => bouncer.stop())

  for (const url of [primary.url, replica.url, primary.admin.url, bouncer.url, bouncer.consoleUrl]) {
    for (const password of ['', 'wrong']) {
      const changed = new URL(url)
      changed.password = password
      const client = new Client({ connectionString: changed.href })
      client.on('error', () => {})
      await t.rejects(client.connect(), /password|SASL/, `${changed.username} with '${password}'`)
    }
  }
  const app = new URL(primary.url)
  const console = new URL(bouncer.consoleUrl)
  console.username = app.username
  console.password = app.password
  const intruder = new Client({ connectionString: console.href })
  intruder.on('error', () => {})
  await t.rejects(intruder.connect(), /not allowed/, 'the console of PgBouncer')

  await primary.query('CREATE SCHEMA shop')
  await primary.query('CREATE TABLE shop.goods AS SELECT 1 AS id')
  const { rows } = await primary.query(
    `SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
            EXISTS (SELECT FROM pg_auth_members WHERE member = pg_roles.oid) AS member
     FROM pg_roles WHERE rolname = current_user`
  )
  t.strictSame(new Set(Object.values(rows[0]!)), new Set([false]))
  for (const sql of [
    'CHECKPOINT',
    'CREATE ROLE other',
    "SELECT pg_read_file('PG_VERSION')",
    'SELECT pg_promote()',
    "ALTER SYSTEM SET work_mem = '1MB'"
  ]) {
    await t.rejects(primary.query(sql), { code: '42501' }, sql)
  }
  const receiver = 'SELECT status FROM pg_stat_wal_receiver'
  t.strictSame((await replica.query(receiver)).rows, [{ status: null }], 'the statistics of the server')
  t.strictSame((await replica.admin.query(receiver)).rows, [{ status: 'streaming' }])
})
