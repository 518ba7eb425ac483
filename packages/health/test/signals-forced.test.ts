import { test } from 'tap'
import { until } from '@flotilla/testbed'
import { ask, ended, start } from './one-process.js'

test('a request that never ends is cut at the deadline, and the exit code says so', async (t) => {
  const app = await start(t, { drain: { delay: 0, timeout: 1000 } })
  const stuck = ask(`${app.url}/slow?ms=60000`).catch((error: NodeJS.ErrnoException) => error.code)
  await until(async () => (await ask(`${app.url}/health`)).status === 200)
  const signalled = performance.now()
  app.signal('SIGTERM')
  t.equal((await ended(app)).code, 1)
  t.ok(performance.now() - signalled < 30_000, 'long before the request would have ended')
  t.equal(await stuck, 'ECONNRESET')
  t.match(app.output(), /out of time/)
})

test('a drain step that hangs is left behind', async (t) => {
  const app = await start(t, { drain: { delay: 0, timeout: 1500 } }, { HANGING_STEP: '1' })
  app.signal('SIGTERM')
  t.equal((await ended(app)).code, 0)
  t.match(app.output(), /drain step did not end in time/)
  t.match(app.output(), /onClose ran/)
})

test('a second signal ends it at once', async (t) => {
  const app = await start(t, { drain: { delay: '20s', quiet: 0, timeout: '30s' } })
  app.signal('SIGTERM')
  await until(async () => (await ask(`${app.url}/health/ready`)).status === 503)
  const second = performance.now()
  app.signal('SIGTERM')
  t.equal((await ended(app)).code, 1)
  t.ok(performance.now() - second < 20_000, 'not after the delay')
  t.match(app.output(), /second SIGTERM/)
})

test('SIGINT drains too', async (t) => {
  const app = await start(t, { drain: { delay: 0 } })
  app.signal('SIGINT')
  t.equal((await ended(app)).code, 0)
  t.match(app.output(), /onClose ran/)
})

test('SIGTERM during start-up closes in order, or at the deadline where the start hangs', async (t) => {
  const slow = await start(t, { drain: { delay: '20s', timeout: '30s' } }, { SLOW_START: '700' })
  slow.signal('SIGTERM')
  const signalled = performance.now()
  t.equal((await ended(slow)).code, 0)
  t.ok(performance.now() - signalled < 20_000, 'no delay for an instance that never took traffic')
  t.match(slow.output(), /onClose ran/)

  const hanging = await start(t, { drain: { delay: 0, timeout: 800 } }, { HANGING_START: '1' })
  hanging.signal('SIGTERM')
  t.equal((await ended(hanging)).code, 1)
})

test('signals can be left to the app', async (t) => {
  const app = await start(t, { drain: { signals: false } })
  app.signal('SIGTERM')
  t.match(await ended(app), { signal: 'SIGTERM' })
})
