import { randomBytes } from 'node:crypto'
import {
  startApp,
  startPostgres,
  startRedis,
  until,
  type AppFleet,
  type PostgresGroup
} from '@flotilla/testbed'
import { test } from 'tap'
import { WebSocket } from 'ws'

interface Note {
  id: number
  author: string
  text: string
}

/** Two instances of one of the two apps, over one Redis and one PostgreSQL with a replica. */
async function startBoard(
  t: { teardown(fn: () => Promise<void>): void },
  app: 'before' | 'after'
): Promise<{ fleet: AppFleet; replica: PostgresGroup['replicas'][number] }> {
  const [redis, postgres] = await Promise.all([startRedis(), startPostgres({ replicas: 1 })])
  await postgres.primary.query(
    'CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, author text, text text)'
  )
  await postgres.waitForCatchUp()
  const fleet = await startApp({
    script: new URL(`../${app}/server.ts`, import.meta.url),
    instances: 2,
    env: {
      REDIS_URL: redis.url,
      DATABASE_URL: postgres.primary.url,
      DATABASE_REPLICA_URL: postgres.replicas[0]!.url,
      SESSION_SECRET: randomBytes(32).toString('hex')
    }
  })
  t.teardown(async () => {
    await fleet.stop()
    await Promise.all([redis.stop(), postgres.stop()])
  })
  return { fleet, replica: postgres.replicas[0]! }
}

/** A browser's part: cookies kept by name, JSON both ways. */
function visitor() {
  const cookies = new Map<string, string>()
  return async (url: string, body?: unknown): Promise<{ status: number; body: unknown }> => {
    const response = await fetch(url, {
      method: body === undefined ? 'GET' : 'POST',
      headers: {
        cookie: Array.from(cookies, (pair) => pair.join('=')).join('; '),
        ...(body !== undefined && { 'content-type': 'application/json' })
      },
      ...(body !== undefined && { body: JSON.stringify(body) })
    })
    for (const header of response.headers.getSetCookie()) {
      const [name = '', value = ''] = header.split(';', 1)[0]!.split('=')
      cookies.set(name, value)
    }
    return { status: response.status, body: await response.json() }
  }
}

/** What arrives at a socket on `/live`, as text. */
async function listen(url: string): Promise<string[]> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/live`)
  const received: string[] = []
  socket.on('message', (data: Buffer) => received.push(data.toString()))
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  return received
}

const texts = (answer: { body: unknown }): string[] => (answer.body as Note[]).map(({ text }) => text)

test('before: one instance is right, two lose track of each other', async (t) => {
  const { fleet } = await startBoard(t, 'before')
  const [one = '', two = ''] = fleet.urls
  const ask = visitor()
  const stranger = visitor()
  t.equal((await ask(`${one}/login`, { user: 'ada' })).status, 200)
  await stranger(`${two}/newest`)
  const [here, there] = [await listen(one), await listen(two)]
  t.match(await ask(`${one}/notes`, { text: 'first' }), { status: 200, body: { author: 'ada' } })
  await until(() => here.length > 0, { message: 'the note reaches the socket beside it' })
  t.match(
    await ask(`${two}/notes`, { text: 'second' }),
    { status: 401 },
    'the other instance knows no visitor'
  )
  t.same(there, [], 'nor do its sockets hear of the note')
  t.same(texts(await stranger(`${two}/newest`)), [], 'and its cache is stale')
})

test('after: it does not matter which instance is asked', async (t) => {
  const { fleet, replica } = await startBoard(t, 'after')
  const [one = '', two = ''] = fleet.urls
  const ask = visitor()
  const stranger = visitor()
  t.equal((await ask(`${one}/login`, { user: 'ada' })).status, 200)
  await stranger(`${two}/newest`)
  const [here, there] = [await listen(one), await listen(two)]
  for (const heard of [here, there]) {
    await until(() => heard.some((frame) => frame.includes('"subscribed"')), {
      message: 'the socket is subscribed'
    })
  }
  t.match(await ask(`${one}/notes`, { text: 'first' }), { status: 200, body: { author: 'ada' } })
  t.match(await ask(`${two}/notes`, { text: 'second' }), { status: 200, body: { author: 'ada' } })
  for (const heard of [here, there]) {
    await until(() => heard.filter((frame) => frame.includes('"message"')).length === 2, {
      message: 'both notes reach every socket'
    })
  }
  t.same(texts(await ask(`${one}/notes`)), ['second', 'first'], 'its author reads both, on either instance')
  t.same(texts(await ask(`${two}/notes`)), ['second', 'first'])
  await until(async () => texts(await stranger(`${two}/newest`)).length === 2, {
    message: 'the cache was dropped'
  })

  // A replica that lags must not fill the cache with what it does not have yet, for a minute.
  await replica.setDelay(3_600_000)
  t.match(await ask(`${one}/notes`, { text: 'third' }), { status: 200 })
  for (const url of fleet.urls) {
    await until(async () => texts(await stranger(`${url}/newest`))[0] === 'third', {
      message: 'the newest is computed behind the write, on every instance'
    })
  }
  await replica.setDelay(0)

  // Degraded is in rotation too: a dependency that answered late on a busy machine. It must recover by itself.
  await until(
    async () => {
      const { status, body } = await ask(`${two}/health`)
      return status === 200 && (body as { status: string }).status === 'healthy'
    },
    { timeout: 25_000, message: 'the instance to be healthy' }
  )
})
