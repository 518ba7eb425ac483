import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { startRedis, until } from '@flotilla/testbed'
import { after, before, test, type Test } from 'tap'
import type { Browser } from './support/browser.js'
import { serve } from './support/serve.js'

type Message = Record<string, unknown>

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

const EVENTS = [
  'loaded',
  'created',
  'saved',
  'renewed',
  'revoked',
  'rejected',
  'refused',
  'dropped',
  'outage'
] as const

/** All that the channels say while the test runs, each message with the name of its channel. */
function listen(t: Test): { take: () => [string, Message][] } {
  const heard: [string, Message][] = []
  for (const event of EVENTS) {
    const hear = (message: unknown): void => void heard.push([event, message as Message])
    subscribe(`flotilla:session:${event}`, hear)
    t.teardown(() => unsubscribe(`flotilla:session:${event}`, hear))
  }
  return { take: () => heard.splice(0) }
}

/** `durationMs` checked and taken out, so that the rest can be compared exactly. */
function timed(t: Test, messages: [string, Message][]): [string, Message][] {
  return messages.map(([event, { durationMs, ...rest }]) => {
    if (durationMs !== undefined) t.ok((durationMs as number) > 0, `${event} took time`)
    return [event, rest]
  })
}

const LOADED: [string, Message] = ['loaded', { source: 'redis', found: true }]

test('the life of a session, each step told once and without the id', async (t) => {
  const { browser } = await serve(t, { url: redis.url })
  const heard = listen(t)
  const visitor = browser()
  const cookies: string[] = []
  const step = async (work: Promise<{ body: Message }>): Promise<[string, Message][]> => {
    await work
    if (visitor.cookies.size > 0) cookies.push(idOf(visitor))
    const messages = heard.take()
    for (const id of cookies) t.notOk(JSON.stringify(messages).includes(id), 'no id in it')
    return timed(t, messages)
  }
  const { ref: first } = (await visitor.post('/set', { count: 1 })).body
  t.same(heard.take(), [['created', { ref: first }]])

  t.same(await step(visitor.post('/set', { count: 2, other: 'x' })), [
    LOADED,
    ['saved', { ref: first, fields: 2 }]
  ])
  t.same(await step(visitor.post('/update/count')), [LOADED, ['saved', { ref: first, fields: 1 }]])
  t.same(await step(visitor.get('/data')), [LOADED])
  t.same(await step(visitor.post('/renew')), [LOADED, ['renewed', { ref: first }]])

  const { ref } = (await visitor.post('/login', { userId: 'ada' })).body
  t.same(timed(t, heard.take()), [
    LOADED,
    ['revoked', { refs: [first] }],
    ['created', { ref, userId: 'ada' }]
  ])
  t.same(await step(visitor.post('/logout')), [LOADED, ['revoked', { refs: [ref], userId: 'ada' }]])
})

test('an end is told once, however many end it', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url })
  const heard = listen(t)
  const visitor = browser()
  const { ref } = (await visitor.post('/login', { userId: 'bob' })).body
  const [one, other] = [await app.sessions.get(idOf(visitor)), await app.sessions.get(idOf(visitor))]
  heard.take()
  await Promise.all([one!.destroy(), other!.destroy()])
  t.same(heard.take(), [['revoked', { refs: [ref], userId: 'bob' }]])
  t.equal((await visitor.get('/data')).status, 200)
  t.same(timed(t, heard.take()), [['loaded', { source: 'redis', found: false }]])

  const [a, b] = [browser(), browser()]
  const refs = [
    (await a.post('/login', { userId: 'eve' })).body['ref'] as string,
    (await b.post('/login', { userId: 'eve' })).body['ref'] as string
  ]
  heard.take()
  t.equal(await app.sessions.revokeAll('eve'), 2)
  const [[event, message], ...more] = heard.take() as [[string, Message]]
  t.equal(event, 'revoked')
  t.same(
    { ...message, refs: (message['refs'] as string[]).toSorted() },
    { refs: refs.toSorted(), userId: 'eve' }
  )
  t.same(more, [])
  t.equal(await app.sessions.revokeAll('eve'), 0)
  t.same(heard.take(), [], 'nothing ended')
})

test('a session from memory is told too, with a schema that looks at it as without', async (t) => {
  const schema = {
    '~standard': { version: 1, vendor: 'x', validate: (value: unknown) => ({ value }) }
  } as const
  for (const session of [{ local: {} }, { local: {}, schema }]) {
    const { app, browser } = await serve(t, { url: redis.url, session: session as never })
    await app.bus.ready()
    const visitor = browser()
    await visitor.post('/set', { count: 1 })
    await visitor.get('/data')
    const heard = listen(t)
    await visitor.get('/data')
    t.same(heard.take(), [['loaded', { source: 'memory', found: true }]])
  }
})

test('what a forger, a late write and a broken session cause', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  const { ref } = (await visitor.post('/set', { count: 1 })).body
  const heard = listen(t)
  const value = idOf(visitor)
  const forged = `${value.slice(0, -3)}${value.endsWith('AAA') ? 'BBB' : 'AAA'}`
  const forger = browser()
  forger.cookie = visitor.cookie.replace(value, forged)
  await forger.get('/data')
  t.same(heard.take(), [['rejected', { ip: '127.0.0.1', reason: 'invalid' }]])

  const held = await app.sessions.get(value)
  await (await app.sessions.get(value))!.destroy()
  heard.take()
  await t.rejects(
    held!.update('count', () => 2),
    { code: 'FLOTILLA_SESSION_ERR_GONE' }
  )
  t.same(heard.take(), [['refused', { ref }]])

  const broken = browser()
  const damaged = (await broken.post('/set', { count: 1 })).body['ref'] as string
  const key = ((await redis.command('KEYS', `*${damaged}*`)) as string[])[0]!
  await redis.command('HDEL', key, '@')
  heard.take()
  await broken.get('/data')
  t.same(timed(t, heard.take()), [['dropped', { ref: damaged, reason: 'its meta field is missing' }]])
})

test('`saved` counts the time of Redis, not that of the callback of update', async (t) => {
  const { app, browser } = await serve(t, { url: redis.url })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const heard = listen(t)
  const session = await app.sessions.get(idOf(visitor))
  const pause = 300
  const started = performance.now()
  await session!.update('count', async (n) => {
    await new Promise((resolve) => setTimeout(resolve, pause))
    return n! + 1
  })
  const whole = performance.now() - started
  const [, saved] = heard.take()
  t.match(saved, ['saved', { fields: 1 }])
  t.ok((saved![1]['durationMs'] as number) <= whole - pause + 1)
})

test('an outage is told once per operation, without what was to be written', async (t) => {
  const own = await startRedis()
  t.teardown(() => own.stop())
  const lines: string[] = []
  const { browser } = await serve(t, {
    url: own.url,
    fastify: { logger: { level: 'warn', stream: { write: (line: string) => void lines.push(line) } } }
  })
  const visitor = browser()
  await visitor.post('/set', { count: 1 })
  const heard = listen(t)
  await own.command('CONFIG', 'SET', 'maxmemory', '1')
  t.equal((await visitor.post('/set', { secret: 'topsecret' })).status, 503)
  const messages = heard.take()
  t.same(timed(t, messages.slice(0, 1)), [LOADED])
  t.match(messages.slice(1), [['outage', { operation: 'save', error: { message: /OOM/ } }]])
  t.equal(messages.length, 2)
  const { error } = messages[1]![1]
  t.notMatch(JSON.stringify({ ...(error as object) }), 'topsecret')
  t.match(lines.join(''), 'OOM')
  t.notMatch(lines.join(''), 'topsecret', 'nor does the log tell')
  await until(async () => {
    await own.command('CONFIG', 'SET', 'maxmemory', '0')
    return (await visitor.post('/set', { secret: 1 })).status === 200
  })
})

/** The value of the session's cookie. */
function idOf({ cookies }: Browser): string {
  return [...cookies.values()][0]!
}
