import { Agent } from 'node:http'
import { fileURLToPath } from 'node:url'
import { test, type Test } from 'tap'
import { sendSteadily, startApp, until, type AppInstance } from '@flotilla/testbed'
import { ask, ended, start } from './one-process.js'
import type { HealthOptions } from '../src/index.js'

/* The app drains in the same way whatever closes it. */

const drain = { delay: '20s', quiet: 400, timeout: '30s' } as const

async function startByCli(t: Test, options: HealthOptions, args: readonly string[]): Promise<AppInstance> {
  const app = fileURLToPath(new URL('./apps/cli-app.js', import.meta.url))
  const fleet = await startApp({
    script: import.meta.resolve('fastify-cli/cli.js'),
    args: ['start', '--address', '127.0.0.1', '--log-level', 'info', ...args, app],
    env: { HEALTH: JSON.stringify(options), FASTIFY_CLOSE_GRACE_DELAY: undefined },
    readyPath: '/health/ready'
  })
  t.teardown(() => fleet.stop())
  return fleet.instances[0]!
}

interface Closer {
  readonly name: string
  start(t: Test): Promise<AppInstance>
  close(app: AppInstance): unknown
}

const term = (app: AppInstance): void => app.signal('SIGTERM')
const closers: readonly Closer[] = [
  {
    name: 'app.close()',
    start: (t) => start(t, { drain }),
    close: (app) => app.call({ do: 'closeAndExit' })
  },
  {
    name: 'close-with-grace alone',
    start: (t) => start(t, { drain: { ...drain, signals: false } }, { CLOSE_WITH_GRACE: '30000' }),
    close: term
  },
  {
    name: 'close-with-grace and the signal handler of this plugin',
    start: (t) => start(t, { drain }, { CLOSE_WITH_GRACE: '30000' }),
    close: term
  },
  {
    name: 'fastify-cli -g 30000',
    start: (t) => startByCli(t, { drain }, ['-g', '30000']),
    close: term
  }
]

for (const { name, start: launch, close } of closers) {
  test(`closed by ${name}, it serves until the balancer has noticed, finishes what runs, then closes`, async (t) => {
    const app = await launch(t)
    const slow = ask(`${app.url}/slow?ms=1000`)
    // Accepted after the slow one.
    t.equal((await ask(app.url)).status, 200)
    await close(app)
    await until(async () => (await ask(`${app.url}/health/ready`)).status === 503)
    t.match(await ask(app.url), { status: 200, connection: 'close' }, 'a request that comes now is answered')
    t.match(await slow, { status: 200, body: '{"slept":1000}' })
    t.equal((await ended(app)).code, 0)
    t.equal(app.output().match(/"msg":"draining"/g)?.length, 1, 'one drain')
  })
}

test('fastify-cli ends the process after 500 ms by default, and the log says what to set', async (t) => {
  const app = await startByCli(t, { drain }, [])
  t.equal((await ask(app.url)).status, 200)
  app.signal('SIGTERM')
  t.equal((await ended(app)).code, 1)
  t.match(app.output(), /ended in the midst of the drain.*--close-grace-delay/)
})

test('in a cluster each worker is an instance of its own, and one that ends loses no request', async (t) => {
  const fleet = await startApp({
    script: new URL('./apps/cluster.js', import.meta.url),
    env: {
      HOSTNAME: 'host',
      HEALTH: JSON.stringify({ drain: { delay: '1s', quiet: 0 }, admin: { port: 0, host: '127.0.0.1' } })
    }
  })
  t.teardown(() => fleet.stop())
  const [app] = fleet.instances
  const seen = new Map<string, { pid: number; ports: { admin: number } }>()
  const look = async (): Promise<void> => {
    const { instance, ...worker } = JSON.parse((await ask(app!.url, new Agent())).body) as {
      instance: string
      pid: number
      ports: { admin: number }
    }
    seen.set(instance, worker)
  }
  await until(async () => {
    await look()
    return seen.size === 2
  })
  t.strictSame([...seen.keys()].sort(), ['host-1', 'host-2'])
  const [one, two] = seen.values()
  t.not(one!.ports.admin, two!.ports.admin, 'each has an admin port of its own')

  const visits = sendSteadily({ url: app!.url, perSecond: 40 })
  t.teardown(() => visits.stop())
  await until(() => visits.outcomes['200']! > 10)
  process.kill(seen.get('host-1')!.pid, 'SIGTERM')
  await until(
    async () => {
      await look()
      return seen.has('host-3')
    },
    { timeout: 40_000, message: 'a new worker has taken its place' }
  )
  await visits.finish()
  t.strictSame(Object.keys(visits.outcomes), ['200'], JSON.stringify(visits.outcomes))
  t.match(app!.output(), /worker 1 ended with 0/)
  app!.signal('SIGTERM')
  t.equal((await ended(app!)).code, 0)
  t.match(app!.output(), /worker 2 ended with 0/)
})
