import { startRedis } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import { buildApp } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

/** What an app logs. */
function logTo(lines: string[]): { logger: object } {
  return { logger: { level: 'warn', stream: { write: (line: string) => void lines.push(line) } } }
}
const complaints = (lines: readonly string[]): string[] => lines.filter((line) => line.includes('await'))

test('the response waits for what its handler did not await: the cookie and the write are right', async (t) => {
  const lines: string[] = []
  const app = await buildApp({ url: redis.url, fastify: logTo(lines), session: { renew: { grace: 0 } } })
  app.post('/forgets/login', async ({ session }) => {
    void session.login('ada')
    return {}
  })
  app.post('/forgets/update', async ({ session }) => {
    void session.update('count', (n = 0) => n + 1)
    return {}
  })
  app.post('/forgets/chain', ({ session }, reply) => {
    void session.renew().then(() => session.update('count', (n = 0) => n + 1))
    reply.send({})
  })
  app.post('/forgets/helper', async ({ session }) => {
    const helper = async (): Promise<void> => {
      await session.renew()
      await session.update('count', (n = 0) => n + 1)
      await session.update('count', (n = 0) => n + 1)
    }
    void helper()
    return {}
  })
  app.post('/forgets/logout', async ({ session }) => {
    void session.logout()
    return {}
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const before = visitor.clone()
  const login = await visitor.post('/forgets/login')
  t.same([login.status, login.setCookie.length], [200, 1])
  t.equal((await visitor.get('/me')).body['userId'], 'ada')
  t.same((await before.get('/data')).body, {}, 'the old id is dead')
  await visitor.post('/forgets/update')
  t.same((await visitor.get('/data')).body, { count: 2 })
  t.equal((await visitor.post('/forgets/chain')).setCookie.length, 1)
  t.same((await visitor.get('/data')).body, { count: 3 })
  t.equal((await visitor.post('/forgets/helper')).setCookie.length, 1)
  t.same((await visitor.get('/data')).body, { count: 5 })
  const replay = visitor.clone()
  t.match((await visitor.post('/forgets/logout')).setCookie[0], /Max-Age=0/)
  t.equal((await replay.get('/me')).body['userId'], null)
  t.match(complaints(lines), [/session\.login\(\)/, /session\.update\(\)/, /session\.logout\(\)/])
  await visitor.post('/forgets/login')
  t.equal(complaints(lines).length, 3, 'each is told once')
})

test('what fails and was not awaited is the error of the response; what its caller handles is not', async (t) => {
  const lines: string[] = []
  const app = await buildApp({ url: redis.url, fastify: logTo(lines) })
  app.post('/forgets', async ({ session }) => {
    void session.update('count', () => {
      throw new Error('of the update')
    })
    return {}
  })
  app.post('/forgets/early', async ({ session }) => {
    void session.login('')
    await new Promise((resolve) => setImmediate(resolve))
    return {}
  })
  app.post('/handles', async ({ session }) => {
    session.login('').catch(() => {})
    session
      .touch()
      .then(() => session.login(''))
      .catch(() => {})
    await session.login('').catch(() => {})
    await Promise.allSettled([session.login(''), session.update('count', () => 1n as never)])
    return {}
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const failed = await visitor.post('/forgets')
  t.same([failed.status, failed.body['message']], [500, 'of the update'])
  const early = await visitor.post('/forgets/early')
  t.same([early.status, early.body['code']], [500, 'FLOTILLA_SESSION_ERR_USER_ID'])
  t.match(complaints(lines), [/update.*failed/, /login.*failed/])
  lines.length = 0
  t.equal((await visitor.post('/handles')).status, 200)
  t.same(lines, [])
})

test('what is awaited, or handed on to be awaited, is not complained of', async (t) => {
  const lines: string[] = []
  const app = await buildApp({ url: redis.url, fastify: logTo(lines) })
  app.post('/returns', ({ session }) => session.logout())
  app.post('/parallel', async ({ session }) => {
    const touch = session.touch()
    await Promise.all([session.update('count', () => 1), session.save()])
    await touch
    return {}
  })
  const { browser } = await serve(t, app)
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  await visitor.post('/parallel')
  await visitor.post('/returns')
  t.same(lines, [])
})

test('a login that comes after the response is told of', async (t) => {
  const lines: string[] = []
  const app = await buildApp({ url: redis.url, fastify: logTo(lines) })
  let login: Promise<void> | undefined
  app.post('/late', ({ session }, reply) => {
    reply.send({})
    login = session.login('ada')
  })
  const { browser } = await serve(t, app)
  t.equal((await browser().post('/late')).setCookie.length, 0)
  await login
  t.match(complaints(lines), [/after its response/])
})

test('a stream is not left open where what was not awaited failed', async (t) => {
  const { Readable } = await import('node:stream')
  const app = await buildApp({ url: redis.url })
  const stream = new Readable({ read() {} })
  app.get('/stream', async ({ session }, reply) => {
    void session.login('')
    return reply.send(stream)
  })
  const { browser } = await serve(t, app)
  t.equal((await browser().get('/stream')).status, 500)
  t.ok(stream.destroyed)
})
