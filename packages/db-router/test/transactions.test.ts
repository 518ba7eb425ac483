import { startPgBouncer, startPostgres, until } from '@flotilla/testbed'
import t from 'tap'
import type { Transaction } from '../src/index.js'
import { codeOf, createApp } from './fixtures/app-in-process.js'

const postgres = await startPostgres({ replicas: 1 })
t.teardown(() => postgres.stop())
const { primary, replicas } = postgres
const servers = { primary: primary.url, replicas: [replicas[0]!.url] }
await primary.query('create table accounts (id int primary key, balance int not null)')
await primary.query('insert into accounts values (1, 100), (2, 100)')
await postgres.waitForCatchUp()
const balance = async (id: number): Promise<unknown> =>
  (await primary.query('select balance from accounts where id = $1', [id])).rows[0]!['balance']
const openTransactions = async (): Promise<unknown> =>
  (
    await primary.query(
      "select count(*)::int as n from pg_stat_activity where state like 'idle in transaction%'"
    )
  ).rows[0]!['n']

t.test('commits what the callback did, and the author reads it back', async (sub) => {
  const app = await createApp(sub, servers)
  const result = await app.db.transaction(async (tx) => {
    await tx.query('update accounts set balance = balance - 10 where id = 1')
    await tx.query('update accounts set balance = balance + 10 where id = 2')
    return 'moved'
  })
  sub.equal(result, 'moved')
  sub.ok(app.db.token())
  sub.equal((await app.db.read.query('select balance from accounts where id = 2')).rows[0]!['balance'], 110)
  sub.equal(await app.db.transaction(async () => 'nothing asked'), 'nothing asked')
})

t.test('a callback that throws rolls back', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 } })
  const before = await balance(1)
  await sub.rejects(
    app.db.transaction(async (tx) => {
      await tx.query('update accounts set balance = 0 where id = 1')
      throw new Error('no')
    }),
    { message: 'no' }
  )
  sub.equal(await balance(1), before)
  sub.equal(await codeOf(app.db.transaction(async (tx) => tx.query('selec'))), '42601')
  sub.equal(await openTransactions(), 0)
})

t.test('a failed statement that the callback swallowed does not pass for a commit', async (sub) => {
  const app = await createApp(sub, servers)
  const swallowed = app.db.transaction(async (tx) => {
    await tx.query('update accounts set balance = 0 where id = 1')
    await tx.query('selec').catch(() => {})
  })
  sub.equal(await codeOf(swallowed), 'FLOTILLA_DB_ERR_ROLLED_BACK')
})

t.test('a callback that never ends is rolled back at its timeout', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1 }, transaction: { timeout: 200 } })
  const forever = app.db.transaction(async (tx) => {
    await tx.query('update accounts set balance = 0 where id = 1')
    await new Promise(() => {})
  })
  sub.equal(await codeOf(forever), 'FLOTILLA_DB_ERR_TRANSACTION_TIMEOUT')
  const stuck = app.db.transaction(async (tx) => tx.query('select pg_sleep(30)'))
  sub.equal(await codeOf(stuck), 'FLOTILLA_DB_ERR_TRANSACTION_TIMEOUT')
  sub.equal((await app.db.write.query('select 1 as one')).rows[0]!['one'], 1, 'the only connection is back')
  await until(async () => (await openTransactions()) === 0, { message: 'nothing is left open' })
})

t.test('tx ends with its callback', async (sub) => {
  const app = await createApp(sub, servers)
  let kept: Transaction | undefined
  await app.db.transaction(async (tx) => {
    kept = tx
    await tx.query('select 1')
  })
  sub.equal(await codeOf(kept!.query('select 1')), 'FLOTILLA_DB_ERR_TRANSACTION_ENDED')
})

t.test('serialization failures run again; both increments count', async (sub) => {
  const app = await createApp(sub, servers)
  await primary.query('update accounts set balance = 0 where id = 1')
  let runs = 0
  const increment = (): Promise<unknown> =>
    app.db.transaction(
      async (tx) => {
        runs++
        const { rows } = await tx.query<{ balance: number }>('select balance from accounts where id = 1')
        await tx.query('update accounts set balance = $1 where id = 1', [rows[0]!.balance + 1])
      },
      { isolation: 'serializable', retries: 50 }
    )
  await Promise.all(Array.from({ length: 6 }, increment))
  sub.equal(await balance(1), 6)
  sub.ok(runs > 6, `${runs} runs`)
})

t.test('a deadlock runs again', async (sub) => {
  const app = await createApp(sub, { ...servers, transaction: { retries: 5 } })
  const both = async (first: number, second: number): Promise<unknown> =>
    app.db.transaction(async (tx) => {
      await tx.query('update accounts set balance = balance + 1 where id = $1', [first])
      await tx.query('select pg_sleep(0.2)')
      await tx.query('update accounts set balance = balance + 1 where id = $1', [second])
    })
  await Promise.all([both(1, 2), both(2, 1)])
  sub.pass('both came through')
  const never = app.db.transaction(
    async (tx) => tx.query("do $$ begin raise exception 'again' using errcode = '40001'; end $$"),
    { retries: 2 }
  )
  sub.equal(await codeOf(never), '40001', 'the retries are bounded')
})

t.test('read only: runs on the replica, sees the author, and can not write', async (sub) => {
  const app = await createApp(sub, servers)
  await app.db.write.query('update accounts set balance = 4711 where id = 2')
  const { port, seen } = await app.db.transaction(
    async (tx) => {
      const { rows } = await tx.query('select inet_server_port() as port, balance from accounts where id = 2')
      return { port: rows[0]!['port'] as number, seen: rows[0]!['balance'] as number }
    },
    { readOnly: true, isolation: 'repeatable read' }
  )
  sub.equal(seen, 4711)
  sub.ok([primary.port, replicas[0]!.port].includes(port))
  const writing = app.db.transaction(async (tx) => tx.query('update accounts set balance = 1'), {
    readOnly: true
  })
  sub.equal(await codeOf(writing), '25006')
})

t.test('read only: its server lost, it runs again; one that writes does not', async (sub) => {
  const app = await createApp(sub, servers)
  const losing = (readOnly: boolean): { runs: () => number; code: Promise<string | undefined> } => {
    let runs = 0
    const code = codeOf(
      app.db.transaction(
        async (tx) => {
          const { rows } = await tx.query('select pg_backend_pid() as pid, inet_server_port() as port')
          if (++runs > 1) return
          const server = rows[0]!['port'] === primary.port ? primary : replicas[0]!
          await server.query('select pg_terminate_backend($1)', [rows[0]!['pid']])
          await tx.query('select 1')
        },
        { readOnly }
      )
    )
    return { runs: () => runs, code }
  }
  const reading = losing(true)
  sub.equal(await reading.code, undefined)
  sub.equal(reading.runs(), 2)
  const writing = losing(false)
  sub.equal(await writing.code, 'FLOTILLA_DB_ERR_UNAVAILABLE')
  sub.equal(writing.runs(), 1)

  // At COMMIT too: one that can not write has no outcome to wonder about.
  let runs = 0
  await app.db.transaction(
    async (tx) => {
      const { rows } = await tx.query('select pg_backend_pid() as pid, inet_server_port() as port')
      if (++runs > 1) return
      const server = rows[0]!['port'] === primary.port ? primary : replicas[0]!
      await server.query('select pg_terminate_backend($1)', [rows[0]!['pid']])
    },
    { readOnly: true }
  )
  sub.equal(runs, 2)
})

t.test('refuses an isolation level that is none', async (sub) => {
  const app = await createApp(sub, servers)
  const run = async (): Promise<unknown> =>
    app.db.transaction(async () => 1, { isolation: 'serializable; drop table accounts' as never })
  sub.equal(await codeOf(run()), 'FLOTILLA_DB_ERR_OPTION')
})

t.test('a connection lost at COMMIT leaves the outcome unknown, and says so', async (sub) => {
  const app = await createApp(sub, servers)
  const cut = app.db.transaction(async (tx) => {
    const { rows } = await tx.query<{ pid: number }>('select pg_backend_pid() as pid')
    await primary.query('select pg_terminate_backend($1)', [rows[0]!.pid])
  })
  sub.match(await codeOf(cut), /OUTCOME_UNKNOWN|UNAVAILABLE/)
})

t.test('a statement of a transaction has limits of its own', async (sub) => {
  const bouncer = await startPgBouncer({ target: primary })
  sub.teardown(() => bouncer.stop())
  const running = async (): Promise<unknown> =>
    (
      await primary.query(
        "select count(*)::int as n from pg_stat_activity where query like '%own limits%' and state = 'active' and pid <> pg_backend_pid()"
      )
    ).rows[0]!['n']
  const slow = 'select pg_sleep(600) /* own limits */'
  for (const url of [primary.url, bouncer.url]) {
    const app = await createApp(sub, { primary: url, pool: { max: 1 } })
    let controller = new AbortController()
    const asks: [string, (tx: Transaction) => Promise<unknown>][] = [
      ['FLOTILLA_DB_ERR_TIMEOUT', (tx) => tx.query(slow, [], { timeout: 200 })],
      ['FLOTILLA_DB_ERR_TIMEOUT', (tx) => tx.query({ text: slow, timeout: '200ms' })],
      ['FLOTILLA_DB_ERR_ABORTED', (tx) => tx.query(slow, [], { signal: controller.signal })]
    ]
    for (const first of [true, false]) {
      for (const [code, ask] of asks) {
        controller = new AbortController()
        let caught: string | undefined
        let afterwards: string | undefined
        const whole = codeOf(
          app.db.transaction(async (tx) => {
            if (!first) await tx.query('select 1')
            const asked = ask(tx)
            if (code === 'FLOTILLA_DB_ERR_ABORTED') {
              asked.catch(() => {})
              await until(running, { message: 'it runs' })
              controller.abort()
            }
            caught = await codeOf(asked)
            afterwards = await codeOf(tx.query('select 1'))
          })
        )
        sub.equal(await whole, code, 'it ends its transaction')
        await until(() => afterwards, { message: 'the callback is over' })
        sub.equal(caught, code)
        sub.equal(afterwards, 'FLOTILLA_DB_ERR_TRANSACTION_ENDED')
        sub.equal((await app.db.write.query('select 1 as one')).rows[0]!['one'], 1, 'the connection is back')
        sub.equal(await running(), 0)
      }
    }
    const bad = app.db.transaction(async (tx) => tx.query('select 1', [], { timeout: 'soon' as never }))
    sub.equal(await codeOf(bad), 'FLOTILLA_DB_ERR_OPTION')
  }
})

t.test('the server gives up on a statement of a transaction too', async (sub) => {
  const bouncer = await startPgBouncer({ target: primary })
  sub.teardown(() => bouncer.stop())
  for (const url of [primary.url, bouncer.url]) {
    const app = await createApp(sub, { primary: url, timeout: '5s', pool: { max: 1 } })
    const limit = async (tx: Transaction, timeout?: number): Promise<unknown> => {
      const options = timeout === undefined ? undefined : { timeout }
      const { rows } = await tx.query("select current_setting('statement_timeout') as own", [], options)
      return rows[0]!['own']
    }
    // Its own limit and a second more, for when this process can not cancel.
    const seen = await app.db.transaction(async (tx) => [
      await limit(tx),
      await limit(tx, 60_000),
      await limit(tx, 0),
      await limit(tx)
    ])
    sub.strictSame(seen, ['6s', '61s', '0', '6s'])
    sub.strictSame(await app.db.transaction(async (tx) => [await limit(tx, 60_000), await limit(tx)]), [
      '61s',
      '6s'
    ])
  }
})
