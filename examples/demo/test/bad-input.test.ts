import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { until } from '@flotilla/testbed'
import { test } from 'tap'
import { readConfig } from '../src/config.js'
import { runDemo, startDemo } from './run-demo.js'

test('what the command line does not know is refused with the usage', async (t) => {
  for (const args of [
    ['--chek'],
    ['--port', '70000'],
    ['--port', 'x'],
    ['--redis', 'mongo'],
    ['--instances', '1'],
    ['--url', 'http://127.0.0.1:1'],
    ['--check', '--url', 'localhost:8080']
  ]) {
    const { code, output } = await runDemo(args)
    t.equal(code, 2, args.join(' '))
    t.match(output, /^DEMO_ERR_USAGE: .*usage: pnpm demo/s)
  }
})

test('a busy port is one coded error, before anything is started', async (t) => {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => void server.close())
  const { port } = server.address() as AddressInfo
  const { code, output } = await runDemo(['--port', String(port)])
  t.equal(code, 1)
  t.match(output, new RegExp(`DEMO_ERR_PORT_BUSY: port ${port} is in use; give another one with --port`))
  t.notMatch(output, /✓/)
})

test('a missing program is named, and nothing is left running', async (t) => {
  const { code, output } = await runDemo([], { PATH: '/nonexistent', FLOTILLA_PROGRAMS: 'path' })
  t.equal(code, 1, output)
  t.match(output, /FLOTILLA_TESTBED_ERR_PROGRAM_MISSING: '\S+'.* is not on this machine/)
})

test('a REDIS_URL that names no single server is one coded error', async (t) => {
  for (const REDIS_URL of ['localhost:6379', 'redis+cluster://localhost:7000']) {
    const { code, output } = await runDemo([], { REDIS_URL })
    t.equal(code, 1, output)
    t.match(output, /DEMO_ERR_REDIS_URL: REDIS_URL must name one server/)
  }
})

test('Ctrl-C stops everything', async (t) => {
  const run = startDemo(['--instances', '2'])
  const url = await until(() => /The guest book: (\S+)/.exec(run.output())?.[1], {
    timeout: 60_000,
    message: 'the demo prints its address'
  })
  await until(
    async () => {
      const fleet = (await (await fetch(`${url}/api/fleet`)).json()) as { instances: unknown[] }
      return fleet.instances.length === 2
    },
    { message: 'both instances have seen each other' }
  )
  run.child.kill('SIGINT')
  const { code } = await run.ended
  t.equal(code, 0)
  await t.rejects(fetch(url))
})

test('the configuration of an instance', async (t) => {
  const whole = {
    REDIS_URL: 'redis://localhost',
    DATABASE_URL: 'postgres://localhost/app',
    DATABASE_REPLICA_URL: 'postgres://a/app,postgres://b/app',
    SESSION_SECRET_FILE: new URL(import.meta.url).pathname
  }
  const config = readConfig(whole)
  t.match(config, {
    port: 8080,
    redisUrl: 'redis://localhost',
    replicaUrls: { length: 2 },
    version: 'unknown'
  })
  t.match(config.sessionSecret, /^import \{ once \}/, 'a secret comes from its file')
  const refused: [Record<string, string>, RegExp][] = [
    [{ REDIS_URL: '' }, /set REDIS_URL \(or REDIS_URL_FILE\), for example/],
    [{ DATABASE_URL: '' }, /set DATABASE_URL/],
    [{ SESSION_SECRET_FILE: '' }, /set SESSION_SECRET, the same on every instance/],
    [{ SESSION_SECRET_FILE: '/nowhere' }, /SESSION_SECRET_FILE names \/nowhere, which cannot be read/],
    [{ SESSION_SECRET_FILE: '', SESSION_SECRET: 'short' }, /at least 32 characters/],
    [{ PORT: 'http' }, /PORT must be a number/],
    [{ ADMIN_PORT: '-1' }, /ADMIN_PORT must be a number/],
    [{ AGENT_PORT: '65536' }, /AGENT_PORT must be a number/]
  ]
  for (const [change, message] of refused) {
    t.throws(() => readConfig({ ...whole, ...change }), { code: 'DEMO_ERR_CONFIG', message })
  }
})
