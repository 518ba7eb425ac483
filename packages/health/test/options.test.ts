import { once } from 'node:events'
import { cp } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import Fastify from 'fastify'
import { test } from 'tap'
import health, { type HealthOptions } from '../src/index.js'

const register = async (options: unknown, plugin = health): Promise<void> => {
  const app = Fastify()
  try {
    await app.register(plugin, options as HealthOptions)
    await app.ready()
  } finally {
    await app.close()
  }
}

test('a bad option fails register, naming it', async (t) => {
  const bad: [object, RegExp][] = [
    [{ version: 3 }, /'version'/],
    [{ instance: '' }, /'instance'/],
    [{ path: 'health' }, /'path'/],
    [{ path: '/health/' }, /'path'/],
    [{ path: '/:any' }, /'path'/],
    [{ header: 'x instance' }, /'header'/],
    [{ header: 1 }, /'header'/],
    [{ logBinding: 'yes' }, /'logBinding'/],
    [{ checks: { timeout: 'soon' } }, /'checks.timeout'/],
    [{ checks: { jitter: 2 } }, /'checks.jitter'/],
    [{ checks: { failures: 0 } }, /'checks.failures'/],
    [{ checks: { retries: 1 } }, /'checks.retries'/],
    [{ details: { token: 'short' } }, /'details.token'/],
    [{ details: { allow: ['localhost'] } }, /'details.allow'/],
    [{ details: { allow: ['10.0.0.0/33'] } }, /'details.allow'/],
    [{ details: { allow: ['10.0.0.0/8/8'] } }, /'details.allow'/],
    [{ details: { allow: '10.0.0.1' } }, /'details.allow'/],
    [{ admin: {} }, /'admin.port'/],
    [{ admin: { port: 70_000 } }, /'admin.port'/],
    [{ overload: { eventLoopUtilization: 98 } }, /'overload.eventLoopUtilization'/],
    [{ overload: { rss: 'lots' } }, /'overload.rss'/],
    [{ drain: { delay: '40s' } }, /'drain.timeout'/],
    [{ drain: { delay: '5s', timeout: '5s' } }, /'drain.timeout'/],
    [{ drain: { signals: ['SIGKILL'] } }, /'drain.signals'/],
    [{ drain: 'later' }, /'drain'/],
    [{ redis: 7 }, /'redis'/],
    [{ redis: {} }, /'redis'/],
    [{ fleet: { name: 'a b' } }, /'fleet.name'/],
    [{ fleet: { lease: 10 } }, /'fleet.lease'/],
    [{ agent: { host: 'x' } }, /'agent.port'/],
    [{ worker: { port: 0, blockedAfter: 'never' } }, /'worker.blockedAfter'/],
    [{ metrics: { path: 'm' } }, /'metrics.path'/],
    [{ metrics: { registry: {} } }, /'metrics.registry'/],
    [{ metrics: 'on' }, /'metrics'/],
    [{ drian: {} }, /unknown option 'drian'/]
  ]
  for (const [options, message] of bad) {
    await t.rejects(
      register(options),
      { code: 'FLOTILLA_HEALTH_ERR_OPTION', message },
      JSON.stringify(options)
    )
  }
})

test('registered twice in one scope', async (t) => {
  const app = Fastify()
  app.register(health, { drain: { signals: false } })
  app.register(health, { drain: { signals: false } })
  t.teardown(() => app.close())
  await t.rejects(Promise.resolve(app.ready()), { code: 'FLOTILLA_HEALTH_ERR_REGISTERED' })
})

test('a port that is taken fails register, and leaves nothing open', async (t) => {
  const other = createServer().listen(0, '127.0.0.1')
  await once(other, 'listening')
  t.teardown(() => other.close())
  const at = { port: (other.address() as AddressInfo).port, host: '127.0.0.1' }
  const code = 'FLOTILLA_HEALTH_ERR_PORT'
  await t.rejects(register({ admin: at }), { code, message: /'admin'.*EADDRINUSE/ })
  await t.rejects(register({ admin: { port: 0 }, agent: at }), { code, message: /'agent'.*EADDRINUSE/ })
  await t.rejects(register({ worker: at }), { code, message: /'worker'/ })
  await t.rejects(register({ worker: { port: 0, agentPort: at.port, host: at.host } }), { code })
})

test('switched off and on', async (t) => {
  const before = process.listenerCount('SIGTERM')
  const app = Fastify()
  await app.register(health, { drain: false, fleet: false, metrics: false, redis: false })
  t.teardown(() => app.close())
  await app.ready()
  t.equal(app.health.metrics, undefined)
  t.equal(process.listenerCount('SIGTERM'), before)
  t.equal((await app.inject('/metrics')).statusCode, 404)
  const full = Fastify()
  await full.register(health, { metrics: true })
  await full.ready()
  t.ok(full.health.metrics)
  t.equal(process.listenerCount('SIGTERM'), before + 1)
  await full.close()
  t.equal(process.listenerCount('SIGTERM'), before, 'close takes the handlers away')
})

test('a worker whose file is not beside the code, as in a bundle, says what to do', async (t) => {
  const modules = fileURLToPath(new URL('../node_modules', import.meta.url))
  const folder = t.testdir({
    'package.json': '{ "type": "module" }',
    node_modules: t.fixture('symlink', modules)
  })
  const dist = fileURLToPath(new URL('../dist', import.meta.url))
  await cp(dist, join(folder, 'dist'), { recursive: true })
  const { default: elsewhere } = (await import(join(folder, 'dist/index.js'))) as { default: typeof health }
  await t.rejects(register({ worker: { port: 0 } }, elsewhere), {
    code: 'FLOTILLA_HEALTH_ERR_OPTION',
    message: /option 'worker' .*keep @flotilla\/health out of a bundle/
  })
})
