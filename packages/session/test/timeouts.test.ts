import { startRedis, until } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import { RedisClock } from '../src/store/clock.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

async function expiryOf(ref: unknown): Promise<number> {
  const [key] = (await redis.command('KEYS', `*${String(ref)}`)) as string[]
  return key === undefined ? -2 : Number(await redis.command('PTTL', key))
}

test('a session not used ends by the idle timeout; one in use lives on, until the absolute one', async (t) => {
  const { app, browser } = await serve(t, {
    url: redis.url,
    session: { idleTimeout: '2s', absoluteTimeout: '6s', touchInterval: '100ms' }
  })
  const idle = browser()
  await idle.post('/login', { userId: 'ada' })
  const busy = browser()
  await busy.post('/login', { userId: 'ada' })
  const started = performance.now()
  t.equal(await app.sessions.count('ada'), 2)
  await until(
    async () => {
      const { body } = await busy.get('/me')
      if (performance.now() - started < 4_000 && body['userId'] !== 'ada')
        throw new Error('a session in use has ended')
      return (await app.sessions.count('ada')) === 1
    },
    { message: 'the idle one is no longer listed' }
  )
  t.equal((await idle.get('/me')).body['userId'], null)
  await until(async () => (await busy.get('/me')).body['userId'] === null, {
    message: 'the absolute timeout'
  })
  const lived = performance.now() - started
  t.ok(lived > 5_500 && lived < 12_000, `lived ${lived} ms`)
  t.equal(await app.sessions.count('ada'), 0)
})

test("deadlines are Redis's: the clock of this process may be wrong by a day in either direction", async (t) => {
  const day = 24 * 3_600_000
  const real = Date.now
  t.teardown(() => {
    Date.now = real
  })
  for (const skew of [-day, day]) {
    Date.now = () => real() + skew
    const { browser } = await serve(t, {
      url: redis.url,
      session: { idleTimeout: '10s', touchInterval: '100ms' }
    })
    const visitor = browser()
    const { body } = await visitor.post('/set', { count: 1 })
    const left = await expiryOf(body['ref'])
    t.ok(left > 8_000 && left <= 10_000, `${left} ms`)
    // The clock jumps while the session is in use.
    Date.now = () => real() - skew
    await until(async () => (await expiryOf(body['ref'])) < 9_500, { message: 'time passes' })
    await until(
      async () => {
        await visitor.get('/data')
        return (await expiryOf(body['ref'])) > 9_700
      },
      { message: 'a touch moves the deadline' }
    )
    t.same((await visitor.get('/data')).body, { count: 1 })
  }
})

test("a process that has not heard Redis's time yet touches rather than let a session in use expire", async (t) => {
  const real = Date.now
  t.teardown(() => {
    Date.now = real
  })
  const first = await serve(t, { url: redis.url, session: { idleTimeout: '10s' } })
  const visitor = first.browser()
  const { body } = await visitor.post('/set', { count: 1 })
  Date.now = () => real() - 3_600_000
  const second = await serve(t, { url: redis.url, session: { idleTimeout: '10s' } })
  const same = second.browser()
  same.cookie = visitor.cookie
  const [key] = (await redis.command('KEYS', `*${String(body['ref'])}`)) as string[]
  const before = Number(await redis.command('PEXPIRETIME', key!))
  await same.get('/data')
  await until(async () => Number(await redis.command('PEXPIRETIME', key!)) > before, {
    message: 'it was touched'
  })
  t.pass()
})

test('the clock follows what Redis told last', (t) => {
  const clock = new RedisClock()
  t.ok(Math.abs(clock.now() - Date.now()) < 1_000)
  clock.observe(1_000_000)
  t.ok(clock.now() >= 1_000_000 && clock.now() < 1_001_000)
  t.end()
})
