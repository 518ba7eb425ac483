import {
  onEachTopology,
  startApp as startProcesses,
  startProxy,
  startRedis,
  startSentinel,
  until
} from '@flotilla/testbed'
import Fastify from 'fastify'
import { test, type Test } from 'tap'
import redis, { resolveLeases, type Lease, type LeaseOptions } from '../src/index.js'
import { rejection, startApp } from './fixtures/app.js'

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })

/** A promise and what settles it. */
function gate(): { open: () => void; opened: Promise<void> } {
  let open = (): void => {}
  const opened = new Promise<void>((resolve) => (open = resolve))
  return { open, opened }
}

void test('what every topology does alike', async (suite) => {
  await onEachTopology(suite, async (on: Test, { url }) => {
    const fleet = await Promise.all(
      ['one', 'two', 'three'].map((instance) => startApp(on, { url, instance, keyPrefix: 'app:' }))
    )
    const [one, two] = fleet as [(typeof fleet)[0], (typeof fleet)[0]]
    await Promise.all(fleet.map((app) => app.ready()))

    await on.test('one at a time, with tokens that grow', async (t: Test) => {
      const tokens: number[] = []
      let running = 0
      let most = 0
      const results = await Promise.all(
        Array.from({ length: 18 }, (_none, n) =>
          fleet[n % 3]!.withLease(
            'turn',
            async ({ token, remainingMs }) => {
              most = Math.max(most, ++running)
              tokens.push(token)
              t.ok(remainingMs > 0)
              await one.redis.ping()
              running--
              return n
            },
            { wait: 'forever' }
          )
        )
      )
      t.equal(most, 1, 'never two')
      t.same(
        tokens,
        [...tokens].sort((a, b) => a - b)
      )
      t.equal(new Set(tokens).size, 18)
      t.match(results[7], { ran: true, value: 7 })
    })

    await on.test('held by another: not run, and its holder named', async (t: Test) => {
      const { open, opened } = gate()
      const { open: begin, opened: begun } = gate()
      const holding = one.withLease(
        'long',
        async () => {
          begin()
          await opened
        },
        { ttl: '1s' }
      )
      await begun
      t.same(await two.withLease('long', () => 'no'), { ran: false, reason: 'held', heldBy: 'one' })
      t.same(await one.withLease('long', () => 'no'), { ran: false, reason: 'held', heldBy: 'one' })
      t.match(await two.withLease('another', () => 'yes'), { ran: true, value: 'yes' })
      // Longer than it lasts without renewal.
      const late = await two.withLease('long', () => 'no', { wait: '2500ms' })
      t.match(late, { ran: false, reason: 'held' })
      open()
      t.match(await holding, { ran: true })
      t.match(await two.withLease('long', () => 'yes'), { ran: true }, 'given back at once')
    })

    await on.test('what the work throws', async (t: Test) => {
      const error = await rejection(one.withLease('fails', () => Promise.reject(new Error('mine'))))
      t.equal(error.message, 'mine')
      t.match(await two.withLease('fails', () => 'next'), { ran: true })
    })

    await on.test('atLeast: a short job is not run again by a slower clock', async (t: Test) => {
      const options: LeaseOptions = { ttl: '30s', atLeast: '1s' }
      t.match(await one.withLease('tick', () => 1, options), { ran: true })
      t.match(await two.withLease('tick', () => 2, options), { ran: false, reason: 'held', heldBy: 'one' })
      t.match(await two.withLease('tick', () => 3, { ...options, wait: 'forever' }), { ran: true })
    })

    await on.test('taken away: the signal is aborted, and the call rejects', async (t: Test) => {
      const work = async (lease: Lease): Promise<void> => {
        lease.assertHeld()
        await one.redis.del('{flotilla:lease:stolen}:holder')
        await aborted(lease.signal)
        t.match(lease.signal.reason, { code: 'FLOTILLA_REDIS_ERR_LEASE_LOST' })
        t.equal(lease.remainingMs, 0)
        const { assertHeld } = lease
        t.throws(assertHeld, { code: 'FLOTILLA_REDIS_ERR_LEASE_LOST' })
      }
      t.match(await rejection(one.withLease('stolen', work, { ttl: '1s' })), {
        code: 'FLOTILLA_REDIS_ERR_LEASE_LOST',
        message: /'stolen' is lost: Redis no longer has it/
      })
    })

    await on.test('closing hands over as soon as the work has ended', async (t: Test) => {
      const events: string[] = []
      const { open: begin, opened: begun } = gate()
      const first = one.withLease('leader', async ({ signal }) => {
        begin()
        await aborted(signal)
        events.push('asked to end')
        await two.redis.ping()
        events.push('ended')
      })
      await begun
      const next = two.withLease('leader', () => events.push('next'), { wait: 'forever' })
      const waiting = one.withLease('leader', () => events.push('never'), { wait: 'forever' })
      await one.close()
      t.match(await first, { ran: true })
      t.same(await waiting, { ran: false, reason: 'closing' })
      // The lease has 30 s: only giving it back lets the test end in time.
      t.match(await next, { ran: true })
      t.same(events, ['asked to end', 'ended', 'next'])
      t.same(await one.withLease('leader', () => 1), { ran: false, reason: 'closing' })
    })
    await Promise.all(fleet.map((app) => app.close()))
  })
})

void test('options that are wrong, and signals', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url })
  const refused = async (name: unknown, options: unknown, message: RegExp): Promise<void> => {
    const error = await rejection(app.withLease(name as string, () => 1, options as LeaseOptions))
    t.match(error, { code: 'FLOTILLA_REDIS_ERR_OPTIONS', message })
  }
  await refused('', {}, /non-empty string without braces/)
  await refused('a}', {}, /non-empty string without braces/)
  await refused(undefined, {}, /non-empty string/)
  await refused('x', { ttl: 5 }, /'ttl' must be a duration.*between 1000/)
  await refused('x', { wait: 'soon' }, /'wait' must be a duration/)
  await refused('x', { tll: '3s' }, /unknown option 'tll'/)
  await refused('x', { replicas: -1 }, /'replicas'/)
  await refused('x', { signal: 1 }, /'signal' must be an AbortSignal/)

  const stop = new AbortController()
  const held = app.withLease('s', ({ signal }) => aborted(signal).then(() => signal.reason as unknown), {
    signal: stop.signal
  })
  const waiting = rejection(app.withLease('s', () => 1, { wait: 'forever', signal: stop.signal }))
  await until(async () => (await app.redis.exists('{flotilla:lease:s}:holder')) === 1)
  const reason = new Error('enough')
  stop.abort(reason)
  t.match(await held, { ran: true, value: reason })
  t.equal(await waiting, reason)
  t.equal(await app.redis.exists('{flotilla:lease:s}:holder'), 0)
})

void test('many wait for one lease', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url })
  const warnings: Error[] = []
  const onWarning = (warning: Error): void => void warnings.push(warning)
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
  const { open, opened } = gate()
  const all = Array.from({ length: 30 }, () => app.withLease('crowd', () => opened, { wait: 'forever' }))
  await until(async () => (await app.redis.exists('{flotilla:lease:crowd}:holder')) === 1)
  const closed = app.close()
  open()
  await closed
  const ran = (await Promise.all(all)).filter((result) => result.ran)
  t.equal(ran.length, 1)
  t.same(warnings, [])
})

void test('work that does not end: close ends, the lease stays until it lapses', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url })
  const other = await startApp(t, { url: server.url })
  const { open, opened } = gate()
  const held = app.withLease('stuck', () => opened, { ttl: '2s', stopTimeout: 100 })
  await until(async () => (await other.redis.exists('{flotilla:lease:stuck}:holder')) === 1)
  await app.close()
  t.match(await other.withLease('stuck', () => 1), { ran: false }, 'it may still be at work')
  t.match(await other.withLease('stuck', () => 1, { wait: 'forever' }), { ran: true }, 'it has lapsed')
  open()
  t.match(await held, { ran: true })
})

void test('a drain hands over while the app still serves', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const steps: Record<string, (context: { deadline: number }) => Promise<void>> = {}
  const app = Fastify()
  t.teardown(() => app.close())
  app.decorate('health', {
    state: 'ready',
    addCheck: () => {},
    onDrain: (name: string, step: (context: { deadline: number }) => Promise<void>) => (steps[name] = step)
  })
  await app.register(redis, { url: server.url })
  await app.ready()
  t.equal(resolveLeases(app, app.redis).withLease.length > 0, true)
  const held = app.withLease('leader', ({ signal }) => aborted(signal))
  await until(async () => (await app.redis.exists('{flotilla:lease:leader}:holder')) === 1)
  t.same(Object.keys(steps), ['leases'])
  await steps['leases']!({ deadline: Date.now() + 10_000 })
  t.match(await held, { ran: true })
  t.equal(await app.redis.exists('{flotilla:lease:leader}:holder'), 0)
})

void test('Redis does not answer: the holder gives up before Redis could give the lease to another', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url, commandTimeout: 300 })
  const other = await startApp(t, { url: server.url })
  let left = 0
  const lost = rejection(
    app.withLease(
      'job',
      async (lease) => {
        server.pause()
        await aborted(lease.signal)
        server.resume()
        left = await other.redis.pttl('{flotilla:lease:job}:holder')
      },
      { ttl: '1s' }
    )
  )
  t.match(await lost, { code: 'FLOTILLA_REDIS_ERR_LEASE_LOST', message: /not renewed in time/ })
  // -2: it has just expired, which is after the holder gave up, or the server could not have been asked yet.
  t.ok(left > 0 || left === -2)
  t.match(await other.withLease('job', () => 'next', { wait: 'forever' }), { ran: true, value: 'next' })
})

void test('a reply that is lost leaves no lease that is in the way', async (t) => {
  const server = await startRedis()
  const proxy = await startProxy(server)
  t.teardown(() => Promise.all([proxy.stop(), server.stop()]))
  const app = await startApp(t, { url: proxy.through(server.url), commandTimeout: 300 })
  const other = await startApp(t, { url: server.url })
  // So that the server knows the script: the reply that is lost is that of the lease.
  t.match(await other.withLease('job', () => 1), { ran: true })
  proxy.loseReplies()
  const run = app.withLease('job', ({ token }) => token, { ttl: '30s', wait: '20s' })
  await until(async () => (await other.redis.exists('{flotilla:lease:job}:holder')) === 1)
  const before = Number(await other.redis.get('{flotilla:lease:job}:token'))
  await proxy.restore()
  const result = await run
  t.match(result, { ran: true })
  t.ok(result.ran && result.token >= before)
  t.equal(await other.redis.exists('{flotilla:lease:job}:holder'), 0)
})

void test('tokens grow over a loss of everything that Redis knew', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url })
  const first = await app.withLease('job', ({ token }) => token)
  await server.command('FLUSHALL')
  const second = await app.withLease('job', ({ token }) => token)
  t.ok(first.ran && second.ran && second.value > first.value)
  t.ok(second.ran && Number.isSafeInteger(second.value))
})

void test('Sentinel: with replicas, a master that is cut off from them prolongs no lease', async (t) => {
  const group = await startSentinel({ replicas: 2 })
  t.teardown(() => group.stop())
  const app = await startApp(t, { url: group.url, commandTimeout: 500 })
  const replicas = await group.replicas()
  const options: LeaseOptions = { ttl: '2s', replicas: 2, wait: '20s' }
  t.match(await app.withLease('job', () => 1, options), { ran: true }, 'confirmed by both')
  const lost = rejection(
    app.withLease(
      'job',
      async ({ signal }) => {
        for (const replica of replicas) replica.pause()
        await aborted(signal)
        for (const replica of replicas) replica.resume()
      },
      options
    )
  )
  t.match(await lost, { code: 'FLOTILLA_REDIS_ERR_LEASE_LOST' })
})

void test('Sentinel: after a failover the next holder has a greater token', async (t) => {
  const group = await startSentinel({ replicas: 2 })
  t.teardown(() => group.stop())
  const app = await startApp(t, { url: group.url })
  const other = await startApp(t, { url: group.url })
  const old = await group.master()
  let first = 0
  const held = app
    .withLease(
      'job',
      async ({ token, signal }) => {
        first = token
        await old.kill()
        await aborted(signal)
      },
      { ttl: '1s' }
    )
    .catch((error: Error & { code?: string }) => error.code)
  await group.waitForFailover(old)
  const next = await other.withLease('job', ({ token }) => token, { ttl: '10s', wait: '30s' })
  t.ok(next.ran && next.value > first)
  t.equal(await held, 'FLOTILLA_REDIS_ERR_LEASE_LOST')
})

void test('a holder that is paused: another takes over, and its late writes are refused', async (t) => {
  const server = await startRedis()
  const resource = await startRedis()
  t.teardown(() => Promise.all([server.stop(), resource.stop()]))
  const fleet = await startProcesses({
    script: new URL('fixtures/lease-app.ts', import.meta.url),
    instances: 2,
    env: (index) => ({ REDIS_URL: server.url, RESOURCE_URL: resource.url, INSTANCE: `i${index}` })
  })
  t.teardown(() => fleet.stop())
  const admitted = async (): Promise<string[]> =>
    (await resource.command('LRANGE', 'admitted', 0, -1)) as string[]
  const writers = async (): Promise<string[]> => [
    ...new Set((await admitted()).map((line) => line.slice(0, 2)))
  ]
  const counts = async (index: number): Promise<{ refused: number; lost: number }> =>
    (await fetch(`${fleet.instances[index]!.url}/counts`)).json() as Promise<{
      refused: number
      lost: number
    }>

  await until(async () => (await admitted()).length > 3)
  const [holder] = await writers()
  const index = Number(holder!.slice(1))
  fleet.instances[index]!.pause()
  await until(async () => (await writers()).length === 2, {
    message: 'the other takes over',
    timeout: 20_000
  })
  fleet.instances[index]!.resume()
  await until(async () => (await counts(index)).lost === 1, { message: 'the first notices', timeout: 20_000 })

  const lines = await admitted()
  const tokens = lines.map((line) => Number(line.slice(3)))
  t.same(
    tokens,
    [...tokens].sort((a, b) => a - b),
    'the resource never went back to the first'
  )
  t.equal(new Set(tokens).size, 2)
  await fleet.instances[1 - index]!.kill('SIGTERM')
  await until(async () => new Set(await admitted()).size === 3, { message: 'and hands over when it ends' })
})
