import { once } from 'node:events'
import { Agent } from 'node:http'
import { test } from 'tap'
import { until } from '@flotilla/testbed'
import { ask, ended, start } from './one-process.js'

test('SIGTERM: readiness falls first, routes keep serving, responses end their connections, exit 0', async (t) => {
  const app = await start(t, { drain: { delay: 600, quiet: 0, timeout: 5000 } })
  const agent = new Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())
  t.equal((await ask(app.url, agent)).connection, 'keep-alive')
  const slow = ask(`${app.url}/slow?ms=1000`)
  const stream = ask(`${app.url}/stream?ms=1000`)
  const silent = ask(`${app.url}/`, agent)
  await silent
  app.signal('SIGTERM')
  const signalled = performance.now()
  await until(async () => (await ask(`${app.url}/health/ready`)).status === 503)
  t.match(JSON.parse((await ask(`${app.url}/health`)).body), { status: 'draining' })
  t.equal((await ask(`${app.url}/health/live`)).status, 200, 'a draining process is alive')
  const during = await ask(app.url, agent)
  t.equal(during.status, 200, 'routes keep serving')
  t.ok(during.reused, 'on a connection of before')
  t.equal(during.connection, 'close')
  t.match(await slow, { status: 200, body: '{"slept":1000}' }, 'a request in flight is answered')
  t.equal((await stream).body, '0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n', 'a stream in flight is complete')
  const { code } = await ended(app)
  const took = performance.now() - signalled
  t.equal(code, 0, 'idle connections do not hold it up until the deadline, at which they would be cut')
  t.ok(took >= 600, 'not before the delay')
  t.match(app.output(), /drain step with \d+ ms/)
  t.match(app.output(), /onClose ran/)
})

test('an idle keep-alive connection and a silent one do not hold up the close', async (t) => {
  const app = await start(t, { drain: { delay: 0, timeout: 10_000 } })
  const agent = new Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())
  await ask(app.url, agent)
  const { connect } = await import('node:net')
  const silent = connect(Number(new URL(app.url).port), '127.0.0.1')
  await once(silent, 'connect')
  silent.on('error', () => undefined)
  app.signal('SIGTERM')
  t.equal((await ended(app)).code, 0, 'nothing had to be cut at the deadline')
})

test('the delay ends early once it has been quiet', async (t) => {
  const app = await start(t, { drain: { delay: '20s', quiet: 300, timeout: '30s' } })
  const signalled = performance.now()
  app.signal('SIGTERM')
  for (let sent = 0; sent < 5; sent++) await ask(`${app.url}/slow?ms=100`)
  t.equal((await ended(app)).code, 0)
  const took = performance.now() - signalled
  t.ok(took >= 700 && took < 20_000, `${Math.round(took)} ms`)
})

test('SIGTERM while the app closes itself waits for the close', async (t) => {
  const app = await start(t, { drain: { delay: 0, timeout: '30s' } })
  const slow = ask(`${app.url}/slow?ms=1000`)
  await until(async () => /"url":"\/slow/.test(app.output()))
  await app.call({ do: 'close' })
  app.signal('SIGTERM')
  t.equal((await ended(app)).code, 0)
  t.match(await slow, { status: 200, body: '{"slept":1000}' })
  t.match(app.output(), /onClose ran/)
})

test('an app that something else closes in the midst of the drain drains on', async (t) => {
  const app = await start(t, { drain: { delay: '20s', quiet: 400, timeout: '30s' } })
  const slow = ask(`${app.url}/slow?ms=1000`)
  app.signal('SIGTERM')
  await until(async () => (await ask(`${app.url}/health/ready`)).status === 503)
  await app.call({ do: 'close' })
  t.equal((await ask(app.url)).status, 200, 'routes keep serving')
  t.match(await slow, { status: 200, body: '{"slept":1000}' })
  t.equal((await ended(app)).code, 0)
  t.equal(app.output().match(/"msg":"draining"/g)?.length, 1)
})

test('SIGTERM during a drain that the app began joins it', async (t) => {
  const app = await start(t, { drain: { delay: '20s', quiet: 400, timeout: '30s' } })
  await app.call({ do: 'drain' })
  await until(async () => (await ask(`${app.url}/health/ready`)).status === 503)
  app.signal('SIGTERM')
  t.equal((await ended(app)).code, 0)
  t.equal(app.output().match(/"msg":"draining"/g)?.length, 1)
  t.equal(app.output().match(/onClose ran/g)?.length, 1)
})
