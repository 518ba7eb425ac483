import { startRedis, until, type RedisServer } from '@flotilla/testbed'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { test, type Test } from 'tap'
import { Intake } from '../src/intake.js'
import type { Transport } from '../src/transport.js'
import { RawClient, startTestApp, type TestApp } from './app.js'

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

const LONG = 'x'.repeat(60_000)

/** Subscribed before the flood and looked at after it: it must have noticed nothing. */
async function startWitness(t: Test, server: TestApp): Promise<(data: unknown) => Promise<void>> {
  const witness = await RawClient.open(t, server.ws)
  await witness.subscribe('news')
  return async (data) => {
    const from = witness.of('message').length
    await server.app.broadcast.publish('news', data)
    await witness.count(from + 1)
    if (witness.closed || witness.of('gap').length > 0) throw new Error('the witness noticed the flood')
  }
}

/** Bytes of this process that are in use. */
async function bytesInUse(): Promise<number> {
  for (let round = 0; round < 3; round += 1) {
    collectGarbage()
    await new Promise((resolve) => setImmediate(resolve))
  }
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

test('what clients send is bounded', async (parent) => {
  let redis: RedisServer
  parent.before(async () => {
    redis = await startRedis()
  })
  parent.teardown(() => redis.stop())

  await parent.test('while authorize is slow, and dropped when they go', async (t) => {
    const CLIENTS = 10
    const asked = new Map<unknown, number>()
    // Kept by the app for as long as it likes.
    const answers: ((allowed: boolean) => void)[] = []
    const server = await startTestApp(t, redis.url, {
      ping: { interval: 300, timeout: 300 },
      authorize: (request, _channel, action) => {
        if (action !== 'publish') return true
        asked.set(request, (asked.get(request) ?? 0) + 1)
        return new Promise((resolve) => answers.push(resolve))
      }
    })
    const check = await startWitness(t, server)
    const before = await bytesInUse()
    const clients = await Promise.all(Array.from({ length: CLIENTS }, () => RawClient.open(t, server.ws)))
    for (const client of clients) {
      for (let n = 0; n < 150; n += 1)
        client.send({ type: 'publish', channel: 'room:1', data: `${n} ${LONG}` })
    }
    await until(() => asked.size === CLIENTS, { message: 'each is asked about' })
    await check('beside')
    const most = Math.max(...asked.values())
    t.ok(most <= 3, `at most ${most} of 60 kB wait for the app for one client`)
    t.same(
      clients.map(({ closed }) => closed),
      clients.map(() => undefined),
      'nobody is sent away'
    )
    for (const { ws } of clients) ws.terminate()
    await until(() => server.app.broadcast.stats().connections === 1, {
      message: 'that they have gone is noticed though their sockets are not read',
      timeout: 30_000
    })
    const kept = (await bytesInUse()) - before
    // What the kernel and ws had read for each: the app holds the request, and the request its socket.
    t.ok(kept < CLIENTS * 300_000, `${kept} bytes are kept of them`)
    const published = Number(await redis.command('XLEN', 'flotilla:ws:{room:1}:log'))
    for (const answer of answers) answer(true)
    await check('afterwards')
    t.equal(
      Number(await redis.command('XLEN', 'flotilla:ws:{room:1}:log')),
      published,
      'nothing is done for a client that has gone'
    )
  })

  await parent.test('while authorize is slow, and all of it is done in order once it answers', async (t) => {
    const answers: (() => void)[] = []
    const server = await startTestApp(t, redis.url, {
      ping: { interval: 200, timeout: 200 },
      authorize: (_request, _channel, action) =>
        action !== 'publish' || new Promise((resolve) => answers.push(() => resolve(true)))
    })
    const client = await RawClient.open(t, server.ws)
    await client.subscribe('room:2')
    for (let n = 0; n < 199; n += 1) client.send({ type: 'publish', id: n, channel: 'room:2', data: n })
    await until(() => answers.length === 128, { message: 'some are asked for at once' })
    // Its pongs are not read meanwhile: that must not count against it.
    const pings = client.of('ping').length
    await until(() => client.of('ping').length > pings + 3)
    t.equal(answers.length, 128)
    while (client.of('published').length < 199) {
      for (const answer of answers.splice(0)) answer()
      await new Promise((resolve) => setImmediate(resolve))
    }
    t.same(
      client.data(),
      Array.from({ length: 199 }, (_none, n) => n)
    )
    t.equal(client.closed, undefined)
  })

  await parent.test(
    'by bytes a second: the socket is read no faster, and all arrives in order',
    async (t) => {
      // On a busy machine Redis may take longer than the default: a publish that fails is repeated by its client, not by this one.
      const patient = { url: redis.url, commandTimeout: '30s' }
      const server = await startTestApp(t, patient, { rate: { bytesPerSecond: '512kb' } })
      const check = await startWitness(t, server)
      const client = await RawClient.open(t, server.ws)
      await client.subscribe('room:3')
      const startedAt = performance.now()
      for (let n = 0; n < 40; n += 1) {
        client.send({ type: 'publish', id: n, channel: 'room:3', data: `${n} ${LONG}` })
      }
      await until(() => client.of('published').length > 0)
      await check('beside')
      await until(() => client.of('published').length + client.of('error').length === 40, {
        timeout: 60_000
      })
      t.same(client.of('error'), [])
      const seconds = (performance.now() - startedAt) / 1000
      // A burst of one second, and one message more than is paid for.
      const least = (40 * 60_000 - 2 * 524_288) / 524_288
      t.ok(seconds >= least, `${seconds} s, at least ${least}`)
      t.same(
        client.data('room:3').map((data) => Number.parseInt(data as string, 10)),
        Array.from({ length: 40 }, (_none, n) => n)
      )
      t.equal(client.closed, undefined)
    }
  )
})

test('a client whose bytes are paid for between two looks at the clock is read on', async (t) => {
  const { now } = performance
  t.teardown(() => Object.assign(performance, { now }))
  let looks = 0
  // As on a busy machine: time passes at each look.
  performance.now = () => now.call(performance) + (looks += 1) / 10
  let paused = false
  const transport = { pause: () => (paused = true), resume: () => (paused = false) } as unknown as Transport
  const done: string[] = []
  const intake = new Intake(
    { open: true, slow: false, transport },
    { perSecond: 10_000, burst: 10_000, bytesPerSecond: 100_000, maxPayload: 1000 },
    async (command) => void done.push(command.toString())
  )
  intake.take(Buffer.alloc(100_000))
  const sent = Array.from({ length: 300 }, (_none, n) => `${n}`.padStart(40, '0'))
  for (const command of sent) {
    intake.take(Buffer.from(command))
    await until(() => !paused, { interval: 1, message: `the socket is read on after ${done.length}` })
  }
  t.same(done.slice(1), sent)
})

test('the rate of bytes is an option', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  await t.rejects(startTestApp(t, redis.url, { rate: { bytesPerSecond: '2 turtles' } }), {
    code: 'FLOTILLA_WS_ERR_OPTION',
    message: /bytesPerSecond/
  })
})
