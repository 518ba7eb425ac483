import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import websocket from '@fastify/websocket'
import { flotillaRedis } from '@flotilla/redis'
import { startApp, startRedis, until } from '@flotilla/testbed'
import Fastify, { type FastifyInstance } from 'fastify'
import { test } from 'tap'
import { WebSocket } from 'ws'
import { connect, type BroadcastClient, type ClientOptions } from '../src/client/index.js'
import { CallRefusedError, flotillaBroadcast, PublishRefusedError, type Schema } from '../src/index.js'
import { CLOSE, ERROR_CODES } from '../src/protocol.js'
import { RawClient, startTestApp } from './app.js'

const read = (name: string): string => readFileSync(new URL(`../${name}`, import.meta.url), 'utf8')

test('every example of the protocol, replayed', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url, {
    channels: { news: { history: {} }, 'room:*': { presence: true, publish: 'client', history: {} } }
  })
  server.app.broadcast.onCall('echo', ({ data }) => data)
  const client = await RawClient.open(t, server.ws)
  const names = new Map<string, unknown>()
  const expected: Record<string, unknown>[] = []
  const lines = [...read('PROTOCOL.md').matchAll(/```\n([^`]*)```/g)].flatMap(([, block]) =>
    block!.trim().split('\n')
  )
  t.ok(lines.length > 30, `${lines.length} lines`)

  /** `<name>` takes any value the first time and the same one afterwards; `<any>` takes all. */
  const fill = (value: unknown): unknown => {
    if (typeof value !== 'string' || !/^<\w+>$/.test(value) || !names.has(value)) return value
    return names.get(value)
  }
  const matches = (pattern: unknown, value: unknown): boolean => {
    if (typeof pattern === 'string' && /^<\w+>$/.test(pattern)) {
      if (pattern === '<any>') return true
      if (!names.has(pattern)) names.set(pattern, value)
      return names.get(pattern) === value
    }
    if (typeof pattern !== 'object' || pattern === null) return pattern === value
    const [want, got] = [Object.entries(pattern), (value ?? {}) as Record<string, unknown>]
    return want.length === Object.keys(got).length && want.every(([key, one]) => matches(one, got[key]))
  }
  const settle = async (): Promise<void> => {
    await until(() => client.frames.length >= expected.length, {
      message: `${JSON.stringify(expected)} arrive: ${JSON.stringify(client.frames)}`
    })
    // Answers and messages may cross; each expected frame is there, and no other.
    const got = client.frames.splice(0)
    for (const pattern of expected.splice(0)) {
      const index = got.findIndex((frame) => matches(pattern, frame))
      t.not(index, -1, `${JSON.stringify(pattern)} in ${JSON.stringify(got)}`)
      got.splice(index, 1)
    }
    t.same(got, [])
  }

  for (const line of lines) {
    if (line.startsWith('←')) {
      expected.push(JSON.parse(line.slice(2)) as Record<string, unknown>)
      continue
    }
    await settle()
    const publish = /^server publishes (\S+) (.*)$/.exec(line)
    if (publish) {
      await server.app.broadcast.publish(publish[1]!, JSON.parse(publish[2]!))
    } else {
      t.ok(line.startsWith('→'), line)
      const text = line.slice(2)
      client.send(text.replaceAll(/<\w+>/g, (name) => String(fill(name))))
    }
  }
  await settle()
})

test('every example of the README, run', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const examples = new Map(
    [...read('README.md').matchAll(/```js (\w+)\n([^`]*(?:`[^`]+`[^`]*)*)```/g)].map(([, name, code]) => [
      name!,
      code!
    ])
  )
  const names = [
    'server',
    'client',
    'connect',
    'publish',
    'attach',
    'manage',
    'publisher',
    'onpublish',
    'oncall',
    'call',
    'authorize'
  ]
  t.same([...examples.keys()], names)

  // As a user has it: the built package, by its names.
  const folder = await mkdtemp(new URL('readme-', import.meta.url).pathname)
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  const script = async (name: string, code: string): Promise<string> => {
    const file = join(folder, `${name}.mjs`)
    await writeFile(file, code)
    return file
  }
  const fleet = await startApp({
    script: await script('server', `${examples.get('server')}\nprocess.send({ ready: true })\n`),
    env: { REDIS_URL: redis.url }
  })
  t.teardown(() => fleet.stop())
  const [instance] = fleet.instances

  const shown: unknown[] = []
  const clientCode = examples
    .get('client')!
    .replace(/^import .*$/m, '')
    .replace("connect('/ws')", 'open()')
  const AsyncFunction = (async () => undefined).constructor as new (
    ...args: string[]
  ) => (...args: unknown[]) => Promise<unknown>
  let client!: BroadcastClient
  const printed: unknown[] = []
  const open = (): BroadcastClient => {
    client = connect(`${instance!.url}/ws`, { WebSocket })
    t.teardown(() => client.close())
    return client
  }
  await new AsyncFunction('open', 'show', 'refetch', 'console', clientCode)(
    open,
    (data: unknown) => shown.push(data),
    () => undefined,
    { log: (value: unknown) => printed.push(value) }
  )
  t.ok(Array.isArray(printed[0]), 'the list of members is printed')
  // A member is entered beside the acknowledgement of its subscription, not before it.
  await until(async () => (await client.presence('room:7')).some(({ id }) => id === client.connection), {
    message: 'the client is among the members'
  })

  const publisher =
    `import { Redis } from 'ioredis'\n${examples.get('publisher')!.replace('new Redis(process.env.REDIS_URL)', 'redis')}`
      .replace(/^import .*$/gm, '')
      .replace('createPublisher(', 'make(')
  const { createPublisher } = await import('../src/publisher.js')
  await new AsyncFunction('make', 'redis', publisher)(createPublisher, redis.client())
  await until(() => shown.length > 0)
  t.same(shown, [{ id: 3 }])

  const app: FastifyInstance = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  await app.register(flotillaRedis, { url: redis.url })
  await app.register(websocket)
  await app.register(flotillaBroadcast, {
    channels: { news: { history: {} }, 'room:*': { presence: true, publish: 'client', history: {} } }
  })
  await new AsyncFunction('app', examples.get('attach')!)(app)
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const attached = await RawClient.open(t, `${url.replace('http', 'ws')}/live/7`)
  await attached.next('subscribed')
  await new AsyncFunction('app', 'token', examples.get('publish')!)(app, 'token-1')
  await attached.count(1)
  t.match(attached.of('message')[0], { data: { id: 2 }, token: 'token-1' })
  await new AsyncFunction('app', examples.get('manage')!)(app)
  await until(() => attached.closed)

  const guarded: FastifyInstance = Fastify({ forceCloseConnections: true })
  t.teardown(() => guarded.close())
  await guarded.register(flotillaRedis, { url: redis.url })
  await new AsyncFunction('app', 'broadcast', examples.get('authorize')!)(guarded, flotillaBroadcast)
  const guardedUrl = await guarded.listen({ port: 0, host: '127.0.0.1' })
  const ann = await RawClient.open(t, `${guardedUrl.replace('http', 'ws')}/ws?user=ann`)
  ann.send({ type: 'publish', id: 1, channel: 'room:ann', data: 1 })
  ann.send({ type: 'publish', id: 2, channel: 'room:bob', data: 1 })
  t.equal((await ann.next('published')).id, 1)
  t.equal((await ann.next('error')).id, 2)

  const checked: FastifyInstance = Fastify({ forceCloseConnections: true })
  t.teardown(() => checked.close())
  await checked.register(flotillaRedis, { url: redis.url })
  await new AsyncFunction('app', 'broadcast', 'PublishRefusedError', examples.get('onpublish')!)(
    checked,
    flotillaBroadcast,
    PublishRefusedError
  )
  const checkedUrl = await checked.listen({ port: 0, host: '127.0.0.1' })
  const writer = await RawClient.open(t, `${checkedUrl.replace('http', 'ws')}/ws`)
  writer.send({ type: 'publish', id: 1, channel: 'room:1', data: { text: 'hi' } })
  writer.send({ type: 'publish', id: 2, channel: 'room:1', data: {} })
  t.equal((await writer.next('published')).id, 1)
  t.match(await writer.next('error'), { id: 2, code: 'no_text', message: 'A message has a text' })

  const asked: FastifyInstance = Fastify({ forceCloseConnections: true })
  t.teardown(() => asked.close())
  await asked.register(flotillaRedis, { url: redis.url })
  await asked.register(flotillaBroadcast, {
    channels: { news: {} },
    authenticate: ({ query }) => ((query as { ticket?: string }).ticket === 'ann' ? { userId: 'ann' } : null)
  })
  const Rename: Schema<{ name: string }> = {
    '~standard': {
      version: 1,
      vendor: 'test',
      validate: (value) => ({ value: value as { name: string } })
    }
  }
  await new AsyncFunction('app', 'Rename', 'CallRefusedError', examples.get('oncall')!)(
    asked,
    Rename,
    CallRefusedError
  )
  const askedUrl = await asked.listen({ port: 0, host: '127.0.0.1' })
  const tickets = ['ann']
  const logins: unknown[] = []
  const asking = await new AsyncFunction(
    'connect',
    'fetchTicket',
    'logIn',
    'warn',
    `${examples.get('connect')}\nreturn client`
  )(
    (url: () => Promise<string>, options: ClientOptions) =>
      connect(async () => new URL(await url(), askedUrl), { ...options, WebSocket }),
    async () => tickets.pop() ?? 'old',
    (reason: unknown) => logins.push(reason),
    () => undefined
  )
  const caller = asking as BroadcastClient
  t.teardown(() => caller.close())
  await until(() => caller.state === 'open')
  const named = `${examples.get('call')}\nreturn name`
  t.equal(await new AsyncFunction('client', named)(caller), 'Ann')
  await asked.broadcast.disconnect({ userId: 'ann' }, { code: 4000 })
  await until(() => logins.length > 0, { message: 'the next ticket is missing' })
  t.same(logins, ['log in first'])
})

test('the protocol names every error code and every close code, and no other', (t) => {
  const protocol = read('PROTOCOL.md')
  const codes = /^Codes: ([^]*?)\n\n/m.exec(protocol)![1]!
  t.same(new Set([...codes.matchAll(/`(\w+)`/g)].map(([, code]) => code)), new Set(ERROR_CODES))
  const closes = [...protocol.matchAll(/^\| (\d{4}) \|/gm)].map(([, code]) => Number(code))
  // 1007 is sent by ws itself.
  t.same(new Set(closes), new Set([...Object.values(CLOSE), 1007]))
  t.end()
})

test('the built package: entry points, and require()', async (t) => {
  const entries = await Promise.all(
    ['', '/client', '/publisher'].map((entry) => import(`@flotilla/ws-broadcast${entry}`))
  )
  t.same(
    entries.map((entry: object) => ['default', 'connect', 'createPublisher'].find((name) => name in entry)),
    ['default', 'connect', 'createPublisher']
  )
  t.ok(pathToFileURL(import.meta.resolve('@flotilla/ws-broadcast')))
})
