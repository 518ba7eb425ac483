import { listen, startRedis, startSentinel, until } from '@flotilla/testbed'
import { test } from 'tap'
import { defineScript, waitForReplicas } from '../src/index.js'
import { rejection, startApp } from './fixtures/app.js'

void test('the connection: ready, lost once and ready again; its close is no loss', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const states = listen(t, 'flotilla:redis:connection')
  const app = await startApp(t, { url: server.url })
  t.same(states, [{ state: 'ready', topology: 'single' }])
  await server.kill()
  await until(() => states.length > 1)
  // Attempts to connect fail meanwhile, and none of them is another loss.
  await rejection(app.redis.get('k'))
  await server.restart()
  await until(() => states.length > 2)
  t.match(states.slice(1), [
    { state: 'lost', topology: 'single' },
    { state: 'ready', topology: 'single' }
  ])
  await app.close()
  t.equal(states.length, 3)
})

void test('a publish is told once, taken by Redis or not, and never its payload', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url, commandTimeout: '300ms' })
  const publishes = listen(t, 'flotilla:redis:publish')
  await app.bus.publish('news', { secret: 'topsecret' })
  t.match(publishes, [{ topic: 'news', durationMs: Number }])
  t.notOk('error' in publishes[0]!)
  t.ok((publishes.shift()!['durationMs'] as number) > 0)

  await server.command('ACL', 'SETUSER', 'default', '-publish')
  t.equal(
    (await rejection(app.bus.publish('news', { secret: 'topsecret' }))).code,
    'FLOTILLA_REDIS_ERR_PUBLISH'
  )
  t.match(publishes, [{ topic: 'news', durationMs: Number, error: { message: /NOPERM/ } }])
  t.equal(publishes.length, 1)
  const { error } = publishes.shift()!
  t.notMatch(JSON.stringify({ ...(error as object) }), 'topsecret')
  await server.command('ACL', 'SETUSER', 'default', '+publish')

  server.pause()
  t.teardown(() => server.resume())
  await rejection(app.bus.publish('news', 1))
  t.match(publishes, [{ topic: 'news', durationMs: Number, error: Error }])
  t.ok((publishes[0]!['durationMs'] as number) >= 299, 'in milliseconds')
  t.equal(publishes.length, 1)
})

void test('what a script fails with does not carry its arguments, known to the server or not', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url })
  const script = defineScript({
    name: 'failing',
    keys: 1,
    lua: `return redis.error_reply('FAILED ' .. KEYS[1])`
  })
  for (const way of ['run', 'runBuffer', 'run'] as const) {
    const error = await rejection(script[way](app.redis, ['k'], ['topsecret']))
    t.match(error.message, 'FAILED k')
    t.notMatch(JSON.stringify({ ...(error as object) }), 'topsecret')
    if (way === 'run') await server.command('SCRIPT', 'FLUSH')
  }
})

void test('a probe is told once, come back or not, and none once the app is closed', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url, bus: { probeInterval: 100, probeTimeout: 300 } })
  const probes = listen(t, 'flotilla:redis:probe')
  await app.ready()
  await app.bus.ready()
  await until(() => probes.length > 0)
  t.match(probes[0], { instance: app.bus.instance, ok: true, durationMs: Number })
  t.ok((probes[0]!['durationMs'] as number) > 0)
  server.pause()
  t.teardown(() => server.resume())
  await until(() => probes.at(-1)!['ok'] === false)
  t.match(probes.at(-1), { instance: app.bus.instance, ok: false, error: Error })
  t.notOk('durationMs' in probes.at(-1)!)
  t.equal(probes.filter(({ ok }) => ok === false).length, 1)
  await app.close()
  const told = probes.length
  await new Promise((resolve) => setTimeout(resolve, 400))
  t.equal(probes.length, told)
})

void test('a wait for replicas is told once, with how many confirmed', async (t) => {
  const group = await startSentinel()
  t.teardown(() => group.stop())
  const app = await startApp(t, { url: group.url })
  await app.redis.set('k', 1)
  await waitForReplicas(app.redis, { key: 'k', replicas: 2, timeout: '10s' })
  const waits = listen(t, 'flotilla:redis:durability')
  await app.redis.set('k', 2)
  await waitForReplicas(app.redis, { key: 'k', replicas: 1, timeout: '10s' })
  t.match(waits, [{ replicas: 1, acknowledged: Number, durationMs: Number }])
  t.ok((waits[0]!['acknowledged'] as number) >= 1)
  t.equal(waits.splice(0).length, 1)
  const error = await rejection(waitForReplicas(app.redis, { key: 'k', replicas: 9, timeout: 300 }))
  t.equal(error.code, 'FLOTILLA_REDIS_ERR_NOT_DURABLE')
  t.match(waits, [{ replicas: 9, acknowledged: 2, durationMs: Number }])
  t.ok((waits[0]!['durationMs'] as number) >= 299)
  t.equal(waits.splice(0).length, 1)
  await rejection(waitForReplicas(app.redis, { key: 'k', replicas: 0, timeout: 300 }))
  t.equal(waits.length, 0, 'nothing was waited for')
})
