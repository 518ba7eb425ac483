import Fastify, { type FastifyInstance } from 'fastify'
import { test, type Test } from 'tap'
import { until } from '@flotilla/testbed'
import { joinHealth } from '@flotilla/core'
import fp from 'fastify-plugin'
import health, { type CheckFunction, type HealthOptions } from '../src/index.js'

const token = 'a-token-of-sixteen-bytes'
const headers = { authorization: `Bearer ${token}` }

interface Detailed {
  status: string
  state: string
  reasons: string[]
  checks: Record<string, { status: string; message?: string; details?: object; blocked?: number }>
}

async function start(t: Test, options: HealthOptions = {}): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(health, { drain: { signals: false }, details: { token }, ...options })
  await app.ready()
  t.teardown(() => app.close())
  return app
}

const detailsOf = async (app: FastifyInstance): Promise<Detailed> =>
  (await app.inject({ url: '/health', headers })).json<Detailed>()

/** The median of fifty probes over a real connection, in milliseconds: a probe that waits shows in all. */
async function medianProbe(url: string): Promise<number> {
  const took: number[] = []
  for (let probe = 0; probe < 50; probe++) {
    const began = performance.now()
    await (await fetch(`${url}/health`)).text()
    took.push(performance.now() - began)
  }
  return took.toSorted((a, b) => a - b)[25]!
}

test('siblings join whichever order they are registered in', async (t) => {
  const sibling = fp(async (fastify: FastifyInstance) => {
    joinHealth(fastify, (joined) => joined.addCheck('sibling', () => ({ message: 'here' })))
  })
  for (const order of ['before', 'after']) {
    const app = Fastify()
    if (order === 'before') app.register(sibling)
    app.register(health, { drain: { signals: false }, details: { token } })
    if (order === 'after') app.register(sibling)
    await app.ready()
    t.teardown(() => app.close())
    await until(() => app.health.state === 'ready')
    t.match((await detailsOf(app)).checks, { sibling: { status: 'passing', message: 'here' } }, order)
  }
})

test('bad checks fail and never hold up a probe', async (t) => {
  const app = await start(t, { checks: { timeout: 30, interval: 20, failures: 1 } })
  const aborted: unknown[] = []
  const circular: Record<string, unknown> = {}
  circular['self'] = circular
  const bad: Record<string, CheckFunction> = {
    'never settles': () => new Promise<void>(() => undefined),
    'throws at once': () => {
      throw new Error('boom')
    },
    'throws nothing in particular': () => {
      throw undefined
    },
    rejects: () => Promise.reject(new Error('refused')),
    'returns false': () => false,
    'returns a junk report': () => ({ ok: 'yes' }) as never,
    'returns a trap': () => ({
      get ok(): boolean {
        throw new Error('trap')
      }
    }),
    'has a then that throws': () =>
      ({
        // oxlint-disable-next-line unicorn/no-thenable -- the very thing to be tested
        get then() {
          throw new Error('no then')
        }
      }) as never
  }
  const junk: Record<string, CheckFunction> = {
    'returns nothing': () => undefined,
    'returns a text': () => Promise.resolve('PONG') as never,
    'returns a circle': () => ({ details: circular }) as never,
    'returns a function': () => (() => 1) as never
  }
  for (const [name, check] of Object.entries({ ...bad, ...junk })) app.health.addCheck(name, check)
  app.health.addCheck('is told to stop', ({ signal }) => {
    signal.addEventListener('abort', () => aborted.push(signal.reason))
    return new Promise<void>(() => undefined)
  })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  await until(() => aborted.length > 1)
  t.ok((await medianProbe(url)) < 50, 'probes answer within 50 ms')
  const { checks, status } = await detailsOf(app)
  t.not(status, 'healthy')
  for (const name of Object.keys(bad)) t.equal(checks[name]?.status, 'failing', name)
  for (const name of Object.keys(junk)) t.equal(checks[name]?.status, 'passing', name)
  t.match(aborted[0], { code: 'FLOTILLA_HEALTH_ERR_CHECK_TIMEOUT' })
  t.match(checks['never settles']?.message, /did not settle within 30ms/)
})

test('a check that never settles is not started without bound', async (t) => {
  const app = await start(t, { checks: { timeout: 5, interval: 10, jitter: 0 } })
  let runs = 0
  let healthy = 0
  app.health.addCheck('hangs', () => {
    runs++
    return new Promise<void>(() => undefined)
  })
  app.health.addCheck('fine', () => void healthy++)
  await until(() => healthy >= 40)
  t.ok(runs < 15, `${runs} runs while a good check ran ${healthy} times`)
})

test('a check that blocks the loop is named', async (t) => {
  const app = await start(t)
  app.health.addCheck('blocks', () => {
    const end = performance.now() + 80
    while (performance.now() < end);
  })
  await until(() => app.health.state === 'ready')
  t.ok((await detailsOf(app)).checks['blocks']!.blocked! >= 80)
})

test('a check that fails is told in the log, as a warning with what it found', async (t) => {
  const lines: string[] = []
  const logger = { level: 'warn', stream: { write: (line: string) => void lines.push(line) } }
  const app = Fastify({ logger })
  await app.register(health, { drain: { signals: false } })
  t.teardown(() => app.close())
  app.health.addCheck('payments', () => false, { level: 'degraded' })
  await app.ready()
  const line = await until(() => lines.find((one) => one.includes('check fails')))
  t.match(JSON.parse(line), {
    level: 40,
    check: 'payments',
    result: { status: 'failing', level: 'degraded' }
  })
  t.equal(line.match(/"level":\d/g)?.length, 1)
})

test('hysteresis: one failure among successes changes nothing', async (t) => {
  const app = await start(t, { checks: { interval: 10, failures: 3, successes: 2 } })
  let results: boolean[] = []
  let runs = 0
  const seen: string[] = []
  app.health.addCheck('flaps', () => {
    runs++
    seen.push(app.health.state)
    return { ok: results.shift() ?? true }
  })
  await until(() => app.health.state === 'ready')
  results = [false, true, false, false, true]
  const from = runs
  await until(() => runs > from + 7)
  t.notOk(seen.slice(from).includes('down'), 'two failures in a row are not three')
  results = [false, false, false, true, false, true, true]
  const again = runs
  await until(() => runs > again + 7 && app.health.state === 'ready')
  // What each run saw before it: down after three failures, and still after one success.
  t.same(seen.slice(again + 3, again + 7), ['down', 'down', 'down', 'down'])
  t.equal(seen[again + 7], 'ready')
})

test('levels: degraded stays in rotation and says so, info is shown only', async (t) => {
  const app = await start(t)
  app.health.addCheck('cache', () => ({ ok: false, message: 'cold' }), { level: 'degraded' })
  app.health.addCheck('note', () => ({ ok: false }), { level: 'info' })
  await until(() => app.health.state === 'degraded')
  const answer = await app.inject('/health')
  t.equal(answer.statusCode, 200)
  t.match(answer.json(), { status: 'degraded' })
  t.strictSame((await detailsOf(app)).reasons, ["check 'cache' fails"])
})

test('a shared dependency that fails never takes out an instance that cannot compare', async (t) => {
  const app = await start(t, { checks: { interval: 10 } })
  app.health.addCheck('db', () => ({ ok: false }), { scope: 'shared', level: 'critical' })
  await until(() => app.health.state === 'degraded')
  t.equal((await app.inject('/health/ready')).statusCode, 200)
})

test('checks run by the clock, not by the probe', async (t) => {
  const app = await start(t)
  let runs = 0
  app.health.addCheck('db', () => void runs++, { interval: '1h' })
  await until(() => app.health.state === 'ready')
  for (let probe = 0; probe < 2000; probe++) await app.inject('/health')
  t.equal(runs, 1)
})

test('what cannot be a check is refused with the reason', async (t) => {
  const app = await start(t)
  const add = (...args: unknown[]): void =>
    app.health.addCheck(...(args as Parameters<typeof app.health.addCheck>))
  add('db', () => undefined)
  t.throws(() => add('db', () => undefined), { code: 'FLOTILLA_HEALTH_ERR_DUPLICATE', message: /'db'/ })
  const code = 'FLOTILLA_HEALTH_ERR_CHECK_INVALID'
  t.throws(() => add('', () => undefined), { code })
  t.throws(() => add('x'), { code, message: /function/ })
  t.throws(() => add('x', () => undefined, null), { code })
  t.throws(() => add('x', () => undefined, { level: 'fatal' }), { code, message: /level/ })
  t.throws(() => add('x', () => undefined, { scope: 'global' }), { code, message: /scope/ })
  t.throws(() => add('x', () => undefined, { timeout: '1 parsec' }), { code, message: /timeout/ })
  t.throws(() => add('x', () => undefined, { interval: 0 }), { code, message: /interval/ })
  t.throws(() => add('x', () => undefined, { failures: 0 }), { code, message: /failures/ })
  app.health.onDrain('sockets', () => undefined)
  t.throws(() => app.health.onDrain('sockets', () => undefined), { code: 'FLOTILLA_HEALTH_ERR_DUPLICATE' })
  t.throws(() => app.health.onDrain('x', undefined as never), { code })
})
