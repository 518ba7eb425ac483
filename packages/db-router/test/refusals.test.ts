import { startPostgres, type PostgresServer } from '@flotilla/testbed'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import flotillaDbRouter, { type Database, type DbRouterOptions } from '../src/index.js'
import { autoRoute } from '../src/auto.js'
import { codeOf, secret } from './fixtures/app-in-process.js'

// What managed and shared-storage services refuse: each of the functions in turn, by privilege.
const postgres = await startPostgres({ replicas: 1 })
t.teardown(() => postgres.stop())
const { primary } = postgres
const replica = postgres.replicas[0]!
await primary.query('create table items (id serial primary key)')

const FUNCTIONS = {
  pg_postmaster_start_time: 'function pg_postmaster_start_time()',
  pg_control_system: 'function pg_control_system()',
  pg_control_checkpoint: 'function pg_control_checkpoint()',
  pg_control_recovery: 'function pg_control_recovery()',
  pg_stat_wal_receiver: 'function pg_stat_get_wal_receiver()',
  'pg_walfile_name, pg_current_wal_insert_lsn': 'function pg_walfile_name(pg_lsn)',
  pg_current_wal_flush_lsn: 'function pg_current_wal_flush_lsn()',
  pg_last_wal_replay_lsn: 'function pg_last_wal_replay_lsn()',
  pg_last_xact_replay_timestamp: 'function pg_last_xact_replay_timestamp()'
}

/** Takes a right from every ordinary role, until the test ends. */
async function refuse(sub: Test, what: string): Promise<void> {
  await primary.admin.query(`revoke execute on ${what} from public`)
  sub.teardown(async () => {
    await primary.admin.query(`grant execute on ${what} to public`)
    await postgres.waitForCatchUp()
  })
  await postgres.waitForCatchUp()
}

interface Running {
  readonly db: Database
  /** The names of what was reported as refused, with the server. */
  readonly refused: () => string[]
}

async function start(sub: Test, options: Partial<DbRouterOptions> = {}): Promise<Running> {
  const lines: { function?: string; server?: string }[] = []
  const stream = {
    write: (line: string): void => void lines.push(JSON.parse(line) as (typeof lines)[number])
  }
  const app = Fastify({ logger: { level: 'warn', stream }, forceCloseConnections: true })
  sub.teardown(() => app.close())
  await app.register(flotillaDbRouter, {
    secret,
    primary: primary.url,
    replicas: [replica.url],
    monitor: { interval: 50, timeout: 2_000 },
    maxWait: '5s',
    ...options
  })
  await app.ready()
  return { db: app.db, refused: () => lines.flatMap((line) => (line.function ? [line.function] : [])) }
}

const serverOf = async (read: Promise<{ rows: Record<string, unknown>[] }>): Promise<PostgresServer> => {
  const { port } = (await read).rows[0]!
  return port === primary.port ? primary : replica
}
const WHERE = 'select inet_server_port() as port'

/** Where reads that must see a write go once what works no longer is known. */
const FROM_REPLICA = new Set([
  'pg_control_system',
  'pg_control_checkpoint',
  'pg_control_recovery',
  'pg_stat_wal_receiver',
  'pg_last_xact_replay_timestamp'
])

for (const [name, what] of Object.entries(FUNCTIONS)) {
  t.test(`without ${name}`, async (sub) => {
    await refuse(sub, what)
    const { db, refused } = await start(sub)
    sub.match(db.status(), {
      primary: `127.0.0.1:${primary.port}/app`,
      servers: [{ state: 'up' }, { state: 'up' }]
    })
    sub.equal(await serverOf(db.session().read.query(WHERE)), replica, 'a read that must see nothing')
    for (let n = 0; n < 5; n++) {
      const author = db.session()
      const { rows } = await author.write.query('insert into items default values returning id')
      const reading = author.read.query(`${WHERE} from items where id = $1`, [rows[0]!['id']])
      sub.equal((await reading).rows.length, 1, 'read back')
      sub.equal(
        await serverOf(reading),
        FROM_REPLICA.has(name) ? replica : primary,
        'the server that answered'
      )
    }
    sub.equal(await db.transaction(async (tx) => (await tx.query('select 1 as n')).rows[0]!['n']), 1)
    sub.strictSame([...new Set(refused())], [name])
    sub.ok(refused().length <= 2, 'reported once for each server, however often it was looked at')
    sub.match(db.status().servers, [{ state: 'up' }, { state: 'up' }])
  })
}

t.test('consistency: false needs pg_is_in_recovery() and nothing else', async (sub) => {
  for (const what of Object.values(FUNCTIONS)) await refuse(sub, what)
  await refuse(sub, 'function pg_current_wal_insert_lsn()')
  const { db } = await start(sub, { consistency: false, route: autoRoute() })
  sub.match(db.status().servers, [
    { state: 'up', role: 'primary' },
    { state: 'up', role: 'replica' }
  ])
  sub.equal(await serverOf(db.read.query(WHERE)), replica)
  sub.equal(await serverOf(db.write.query(WHERE)), primary)
  sub.equal(await codeOf(db.write.query('insert into items default values')), undefined)
  sub.equal(
    await codeOf(db.transaction(async (tx) => tx.query('insert into items default values'))),
    undefined
  )
  sub.equal(await codeOf(db.read.query('insert into items default values')), 'FLOTILLA_DB_ERR_NOT_A_READ')
})

t.test('all of them refused: no stale read all the same', async (sub) => {
  for (const what of Object.values(FUNCTIONS)) await refuse(sub, what)
  const { db } = await start(sub)
  await replica.pauseReplay()
  sub.teardown(() => replica.resumeReplay())
  for (let n = 0; n < 5; n++) {
    const author = db.session()
    const { rows } = await author.write.query('insert into items default values returning id')
    const { rowCount } = await author.read.query('select 1 from items where id = $1', [rows[0]!['id']])
    sub.equal(rowCount, 1)
  }
  await replica.resumeReplay()
})
