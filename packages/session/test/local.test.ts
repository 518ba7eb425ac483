import { startApp, startRedis, until } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import { Browser } from './support/browser.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

const long = { local: { maxAge: '10m' } } as const

test('what another instance changes or revokes is dropped from memory', async (t) => {
  const fleet = await startApp({
    script: new URL('support/process.ts', import.meta.url),
    instances: 2,
    env: { APP_SETTINGS: JSON.stringify({ url: redis.url, session: long }) }
  })
  t.teardown(() => fleet.stop())
  const visitor = new Browser(fleet.urls)
  await visitor.post('/login', { userId: 'ada' })
  await visitor.post('/set', { count: 0 })
  for (let n = 1; n <= 50; n++) {
    // Held by both; the write on one is to be seen on the other.
    await visitor.get('/data', 0)
    await visitor.get('/data', 1)
    await visitor.post('/set', { count: n }, n)
    await until(async () => (await visitor.get('/get/count', n + 1)).body['value'] === n, {
      timeout: 2_000,
      message: `write ${n} is seen`
    })
    await visitor.post('/update/count', {}, n + 1)
    await until(async () => (await visitor.get('/get/count', n)).body['value'] === n + 1, {
      timeout: 2_000,
      message: `update ${n} is seen`
    })
  }
  await visitor.get('/data', 0)
  const { ref } = (await visitor.get('/me', 1)).body
  await fleet.instances[0]!.call({ call: 'revoke', args: ['ada', ref] })
  await until(async () => (await visitor.get('/me', 1)).body['userId'] === null, {
    timeout: 2_000,
    message: 'revoked'
  })
  t.equal((await visitor.get('/me', 0)).body['userId'], null)
})

test('a request may change what it read from memory without changing it for others', async (t) => {
  const { browser } = await serve(t, { url: redis.url, session: long })
  const visitor = browser()
  await visitor.post('/set', { cart: { items: ['a'] }, bad: 1 })
  await visitor.get('/data')
  const answers = await Promise.all([
    visitor.get('/data'),
    visitor.post('/push', { items: ['b'] }),
    visitor.get('/data')
  ])
  for (const { status } of answers) t.equal(status, 200)
  t.same((await visitor.get('/get/cart')).body, { value: { items: ['a', 'b'] } })
})

test('when the bus may have missed something, all is read again', async (t) => {
  const { browser } = await serve(t, { url: redis.url, session: long })
  const visitor = browser()
  const { body } = await visitor.post('/set', { count: 1 })
  await visitor.get('/data')
  const [key] = (await redis.command('KEYS', `*${String(body['ref'])}`)) as string[]
  // Behind everybody's back: no message tells of it.
  await redis.command('HSET', key!, 'count', '2')
  t.same((await visitor.get('/data')).body, { count: 1 }, 'held')
  await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(async () => (await visitor.get('/data')).body['count'] === 2, {
    message: 'read again after the gap'
  })
  t.pass()
})

test('never older than maxAge, whatever the bus says', async (t) => {
  const { browser } = await serve(t, { url: redis.url, session: { local: { maxAge: '300ms' } } })
  const visitor = browser()
  const { body } = await visitor.post('/set', { count: 1 })
  await visitor.get('/data')
  const [key] = (await redis.command('KEYS', `*${String(body['ref'])}`)) as string[]
  await redis.command('DEL', key!)
  const from = performance.now()
  await until(async () => (await visitor.get('/data')).body['count'] === undefined, { message: 'it is gone' })
  t.ok(performance.now() - from < 3_000)
})

test('never for longer than Redis has it: the idle timeout bounds a copy as well', async (t) => {
  const { browser } = await serve(t, { url: redis.url, session: { ...long, idleTimeout: '1s' } })
  const visitor = browser()
  const { body } = await visitor.post('/set', { count: 1 })
  await visitor.get('/data')
  const [key] = (await redis.command('KEYS', `*${String(body['ref'])}`)) as string[]
  const expired = async (name: string): Promise<boolean> => (await redis.command('EXISTS', name)) === 0
  await until(() => expired(key!), { message: 'it ends' })
  // Redis's time is known here only as exactly as its replies are quick.
  await redis.command('SET', 'moment', '1', 'PX', '300')
  await until(() => expired('moment'), { message: 'a moment passes' })
  t.same((await visitor.get('/data')).body, {})
})

test('a touch that finds the session gone drops the copy', async (t) => {
  const { browser } = await serve(t, { url: redis.url, session: { ...long, touchInterval: '1s' } })
  const visitor = browser()
  const { body } = await visitor.post('/set', { count: 1 })
  const [key] = (await redis.command('KEYS', `*${String(body['ref'])}`)) as string[]
  await visitor.get('/data')
  // Behind everybody's back: no message tells of it.
  await redis.command('DEL', key!)
  await until(async () => (await visitor.get('/data')).body['count'] === undefined, {
    message: 'it is dropped'
  })
  t.pass()
})

test('a renewed session is dropped by its reference too', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url, session: long })
  const visitor = browser()
  await visitor.post('/login', { userId: 'ada' })
  await visitor.post('/renew')
  const { ref } = (await visitor.get('/me')).body
  await visitor.get('/me')
  t.equal(await app.sessions.revoke('ada', String(ref)), true)
  t.equal((await visitor.get('/me')).body['userId'], null)
})
