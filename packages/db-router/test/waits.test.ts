import { startPostgres, until } from '@flotilla/testbed'
import type { FastifyInstance } from 'fastify'
import { getEventListeners } from 'node:events'
import { request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as after } from 'node:timers/promises'
import t from 'tap'
import { codeOf, createApp } from './fixtures/app-in-process.js'

// Every bound is far longer than the test: only the abort can end these waits.
const monitor = { interval: 50, timeout: 3_000 }
const STILL_WAITING = 'still waiting'
const soon = (promise: Promise<unknown>): Promise<string | undefined> =>
  Promise.race([codeOf(promise), after(5_000, STILL_WAITING, { ref: false })])

const postgres = await startPostgres({ replicas: 1 })
t.teardown(() => postgres.stop())
const { primary, replicas } = postgres
const replica = replicas[0]!
const servers = { primary: primary.url, replicas: [replica.url], monitor }
await primary.query('create table items (id int)')
await postgres.waitForCatchUp()

const waiting = (app: FastifyInstance, server: number): number =>
  app.db.status().servers[server]!.connections.waiting

t.test('an abort ends the wait for a connection and gives up the place in line', async (sub) => {
  const app = await createApp(sub, { ...servers, pool: { max: 1, maxWaiting: 1, acquireTimeout: '1h' } })
  const held = await app.db.write.pool.connect()
  const asks: ((signal: AbortSignal) => Promise<unknown>)[] = [
    (signal) => app.db.write.query('select 1', [], { signal }),
    (signal) => app.db.session({ signal }).write.query('select 1'),
    (signal) => app.db.transaction(async (tx) => tx.query('select 1'), { signal }),
    (signal) => app.db.session({ signal }).write.pool.connect()
  ]
  for (const ask of asks) {
    const controller = new AbortController()
    const asked = ask(controller.signal)
    asked.catch(() => {})
    await until(() => waiting(app, 0) === 1, { message: 'it waits' })
    sub.equal(
      await codeOf(app.db.write.query('select 1')),
      'FLOTILLA_DB_ERR_POOL_EXHAUSTED',
      'the line is full'
    )
    controller.abort()
    sub.equal(await soon(asked), 'FLOTILLA_DB_ERR_ABORTED')
    sub.equal(waiting(app, 0), 0, 'its place is free')
  }
  const next = app.db.write.query('select 1 as one')
  held.release()
  sub.equal((await next).rows[0]!['one'], 1, 'the connection goes to who still waits')
})

t.test('an abort ends the wait for a turn at the primary', async (sub) => {
  const app = await createApp(sub, {
    ...servers,
    replicas: ['postgres://postgres@127.0.0.1:1/app'],
    fallback: { concurrency: 1, maxWaiting: 5, wait: '1h' }
  })
  const running = new AbortController()
  const first = codeOf(
    app.db.read.query('select pg_sleep(600)', [], { signal: running.signal, timeout: '1h' })
  )
  await until(() => app.db.status().fallback.running === 1, { message: 'the share is used up' })
  const asks: ((signal: AbortSignal) => Promise<unknown>)[] = [
    (signal) => app.db.read.query('select 1', [], { signal }),
    (signal) => app.db.session({ signal }).read.query('select 1'),
    (signal) => app.db.transaction(async (tx) => tx.query('select 1'), { readOnly: true, signal })
  ]
  for (const ask of asks) {
    const controller = new AbortController()
    const asked = ask(controller.signal)
    asked.catch(() => {})
    await until(() => app.db.status().fallback.waiting === 1, { message: 'it waits' })
    controller.abort()
    sub.equal(await soon(asked), 'FLOTILLA_DB_ERR_ABORTED')
    sub.strictSame(app.db.status().fallback, { running: 1, waiting: 0 })
  }
  const next = app.db.read.query('select 1 as one')
  running.abort()
  sub.equal(await first, 'FLOTILLA_DB_ERR_ABORTED')
  sub.equal((await next).rows[0]!['one'], 1, 'the turn goes to who still waits')
  sub.strictSame(app.db.status().fallback, { running: 0, waiting: 0 })
})

t.test('an abort ends the wait for a replica to catch up', async (sub) => {
  const app = await createApp(sub, { ...servers, maxWait: '10s', maxLag: '50s', tokenTtl: '2m' })
  await replica.pauseReplay()
  const controller = new AbortController()
  const job = app.db.session({ signal: controller.signal })
  await job.write.query('insert into items values (1)')
  const reading = job.read.query('select count(*)::int as n from items')
  reading.catch(() => {})
  await after(20)
  controller.abort()
  sub.equal(await soon(reading), 'FLOTILLA_DB_ERR_ABORTED')
  await replica.resumeReplay()
})

t.test('an abort, and a client that goes away, end the wait for a primary', async (sub) => {
  let outcome: Promise<string | undefined> | undefined
  const app = await createApp(sub, { ...servers, primaryWait: '1h' }, (one) => {
    one.get('/write', async (incoming) => {
      outcome = codeOf(incoming.db.write.query('insert into items values (2)'))
      return { code: await outcome }
    })
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  await primary.kill()
  await until(() => app.db.status().primary === undefined, { message: 'the primary is known to be away' })
  const asks: ((signal: AbortSignal) => Promise<unknown>)[] = [
    (signal) => app.db.write.query('select 1', [], { signal }),
    (signal) => app.db.session({ signal }).write.query('select 1'),
    (signal) => app.db.transaction(async (tx) => tx.query('select 1'), { signal })
  ]
  for (const ask of asks) {
    const controller = new AbortController()
    const asked = ask(controller.signal)
    asked.catch(() => {})
    await after(20)
    controller.abort()
    sub.equal(await soon(asked), 'FLOTILLA_DB_ERR_ABORTED')
  }
  const call = request({ port, path: '/write', host: '127.0.0.1' })
  call.on('error', () => {})
  call.end()
  await until(() => outcome !== undefined, { message: 'the request waits' })
  call.destroy()
  sub.equal(
    await Promise.race([outcome, after(5_000, STILL_WAITING, { ref: false })]),
    'FLOTILLA_DB_ERR_ABORTED'
  )
  const kept = app.db.write.query('select 1 as one')
  await primary.restart()
  sub.equal((await kept).rows[0]!['one'], 1, 'who waited on is served')
})

t.test(
  'a response waits for the position of a write for a bounded time, whatever primaryWait is',
  async (sub) => {
    const app = await createApp(
      sub,
      // Nobody looks: the primary is taken for what it was.
      { ...servers, monitor: { interval: '1h', timeout: 3_000 }, tokenTtl: '3h', primaryWait: '1h' },
      (one) => {
        one.post('/write', async (incoming) => ({
          code: await codeOf(incoming.db.write.query('select pg_sleep(600) /* in doubt */'))
        }))
      }
    )
    const answer = app.inject({ method: 'POST', url: '/write' }).then((response) => response.json())
    await until(
      async () => {
        const { rows } = await primary.query(
          "select pid from pg_stat_activity where query like '%/* in doubt */%' and state = 'active' and pid <> pg_backend_pid()"
        )
        return rows.length > 0
      },
      { message: 'it runs' }
    )
    await primary.kill()
    sub.strictSame(await Promise.race([answer, after(20_000, STILL_WAITING, { ref: false })]), {
      code: 'FLOTILLA_DB_ERR_OUTCOME_UNKNOWN'
    })
    await primary.restart()
  }
)

t.test('a signal that outlives its jobs keeps nothing of them', async (sub) => {
  const app = await createApp(sub, servers)
  const shutdown = new AbortController()
  const listeners = (): number => getEventListeners(shutdown.signal, 'abort').length
  for (let n = 0; n < 3; n++) {
    const job = app.db.session({ signal: shutdown.signal })
    await Promise.all([job.write.query('select 1'), job.read.query('select 1')])
    await job.read.after(job.token()).query('select 1')
    await job.transaction(async (tx) => tx.query('select 1'))
    await codeOf(job.write.query('selec'))
  }
  sub.equal(listeners(), 0)
  const job = app.db.session({ signal: shutdown.signal })
  const running = Array.from({ length: 3 }, () => soon(job.write.query('select pg_sleep(600)')))
  running.push(soon(job.read.after(job.token()).query('select pg_sleep(600)')))
  sub.equal(listeners(), 1, 'one for all that a job runs')
  shutdown.abort()
  for (const one of running) sub.equal(await one, 'FLOTILLA_DB_ERR_ABORTED')
  sub.equal(listeners(), 0)
  for (const late of [job, app.db.session({ signal: shutdown.signal })]) {
    sub.equal(await codeOf(late.write.query('select 1')), 'FLOTILLA_DB_ERR_ABORTED')
    sub.equal(await codeOf(late.read.after(late.token()).query('select 1')), 'FLOTILLA_DB_ERR_ABORTED')
  }
})
