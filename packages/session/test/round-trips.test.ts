import { startRedis, until } from '@flotilla/testbed'
import { after, before, test } from 'tap'
import { createTicketing } from '../src/ticket.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

/** Names of the commands, without what the bus sends itself. */
async function commandsOf(work: () => Promise<unknown>): Promise<string[]> {
  const { commands } = await redis.countCommands(work)
  return commands.filter(([name]) => name !== 'PUBLISH' && name !== 'SPUBLISH').map(([name]) => name!)
}

test('no cookie, a bad MAC, a route with sessions off: none', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/login', { userId: 'ada' })
  t.same(await commandsOf(() => browser().get('/data')), [])
  t.same(await commandsOf(() => browser().get('/none')), [])
  const forged = browser()
  forged.cookie = `sid=${createTicketing('another secret of thirty-two bytes or more', 'sid').issue().value}`
  t.same(await commandsOf(() => forged.get('/data')), [])
  t.same((await visitor.get('/off')).body, { session: 'undefined' })
  t.same(await commandsOf(() => visitor.get('/off')), [])
})

test('a route that loads on demand: none until it asks', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  t.same(await commandsOf(() => visitor.get('/lazy')), [])
  t.same(await commandsOf(() => visitor.get('/lazy/load')), ['HGETALL'])
  t.same((await visitor.get('/lazy/load')).body, { count: 1 })
  const unloaded = await visitor.get('/lazy/unloaded')
  t.equal(unloaded.body['code'], 'FLOTILLA_SESSION_ERR_NOT_LOADED')
})

test('load: one HGETALL; nothing changed: nothing more; changed: one script', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  for (const user of [undefined, 'ada']) {
    const visitor = browser()
    await visitor.post('/set', { count: 1 })
    if (user) await visitor.post('/login', { userId: user })
    t.same(await commandsOf(() => visitor.get('/data')), ['HGETALL'])
    t.same(
      await commandsOf(() => visitor.post('/set', { count: 1 })),
      ['HGETALL'],
      'the same value is no change'
    )
    await visitor.post('/set', { count: 2 })
    t.same(await commandsOf(() => visitor.post('/set', { count: 3, more: [1] })), ['HGETALL', 'EVALSHA'])
    await visitor.post('/update/count')
    t.same(await commandsOf(() => visitor.post('/update/count')), ['HGETALL', 'EVALSHA'])
  }
  const fresh = browser()
  t.same(await commandsOf(() => fresh.post('/set', { count: 1 })), ['EVALSHA'], 'a new session')
  t.same(
    await commandsOf(() => browser().post('/login', { userId: 'ada' })),
    ['EVALSHA'],
    'a login of a new visitor'
  )
  t.same(
    await commandsOf(() => fresh.post('/login', { userId: 'ada' })),
    ['HGETALL', 'EVALSHA', 'EVALSHA'],
    'one to end, one to begin'
  )
  t.same(await commandsOf(() => fresh.post('/logout')), ['HGETALL', 'EVALSHA'])
})

test('touch: only when the deadline has become stale, and after the response', async (t) => {
  const { browser } = await serve(t, {
    url: redis.url,
    session: { idleTimeout: '10s', touchInterval: '500ms' }
  })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  t.same(await commandsOf(() => visitor.get('/data')), ['HGETALL'])
  let touched = 0
  await until(
    async () => {
      const commands = await commandsOf(async () => {
        await visitor.get('/data')
        await new Promise((resolve) => setImmediate(resolve))
      })
      if (commands.includes('EVALSHA')) touched++
      return touched === 1
    },
    { message: 'a touch' }
  )
  t.same(await commandsOf(() => visitor.get('/data')), ['HGETALL'], 'and not again')
})

test('from memory: none on a hit', async (t) => {
  const { browser } = await serve(t, { url: redis.url, session: { local: { maxAge: '1m' } } })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  t.same(await commandsOf(() => visitor.get('/data')), ['HGETALL'])
  t.same(await commandsOf(() => visitor.get('/data')), [])
  t.same((await visitor.get('/data')).body, { count: 1 })
  t.same(await commandsOf(() => visitor.post('/set', { count: 2 })), ['EVALSHA'])
  t.same(await commandsOf(() => visitor.get('/data')), ['HGETALL'])
  t.same((await visitor.get('/data')).body, { count: 2 })
})
