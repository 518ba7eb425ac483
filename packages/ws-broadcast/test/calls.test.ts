import { startProxy, startRedis, until } from '@flotilla/testbed'
import { test, type Test } from 'tap'
import { WebSocket } from 'ws'
import { connect, type BroadcastClient } from '../src/client/index.js'
import { CallRefusedError, type BroadcastOptions, type Call, type Schema } from '../src/index.js'
import { RawClient, startTestApp } from './app.js'

const authenticate = ({ query }: { query: unknown }): { userId?: string } => query as { userId?: string }

function open(t: Test, url: string): BroadcastClient {
  const client = connect(url, { WebSocket, reconnect: { min: 20, max: 100 } })
  t.teardown(() => client.close())
  return client
}

/** As a library with Standard Schema makes it. */
const Rename: Schema<{ name: string }> = {
  '~standard': {
    version: 1,
    vendor: 'test',
    validate: async (value) => {
      const { name } = Object(value) as { name?: unknown }
      if (typeof name === 'string') return { value: { name: name.trim() } }
      return { issues: [{ message: 'must be a string', path: [{ key: 'user' }, 'name'] }] }
    }
  }
}

test('clients ask the server', async (parent) => {
  const redis = await startRedis()
  parent.teardown(() => redis.stop())
  const options: Partial<BroadcastOptions> = { authenticate, maxPayload: '4kb' }
  const server = await startTestApp(parent, redis.url, options)
  const calls: Call[] = []
  let failures = 0
  const waiting: { call: Call; answer: (value: unknown) => void }[] = []
  const { broadcast } = server.app
  broadcast.onCall('echo', (call) => {
    calls.push(call)
    return call.data
  })
  broadcast.onCall('rename', { schema: Rename }, ({ data, identity }) => `${identity.userId} is ${data.name}`)
  broadcast.onCall('refuse', () => {
    throw new CallRefusedError('too_late', 'The auction has ended')
  })
  broadcast.onCall('break', async () => {
    failures += 1
    throw failures === 1 ? new Error('a secret') : undefined
  })
  broadcast.onCall('large', () => 'x'.repeat(5000))
  broadcast.onCall('cycle', () => {
    const value: Record<string, unknown> = {}
    value['self'] = value
    return value
  })
  broadcast.onCall('busy', () => {
    throw Object.assign(new Error('no room'), { statusCode: 503 })
  })
  broadcast.onCall('wait', (call) => new Promise((resolve) => waiting.push({ call, answer: resolve })))

  await parent.test('and get an answer, or a coded error', async (t) => {
    const client = open(t, `${server.ws}?userId=u1`)
    t.same(await client.call('echo', { n: 1 }), { n: 1 })
    t.match(calls[0], { identity: { userId: 'u1' }, connection: client.connection, data: { n: 1 } })
    t.ok(calls[0]!.request.headers.host)
    t.equal(await client.call('echo'), null, 'nothing comes as null')
    t.equal(calls[1]!.data, undefined)
    t.equal(await client.call<string>('rename', { name: ' Ann ' }), 'u1 is Ann')
    await t.rejects(client.call('rename', {}), {
      code: 'invalid_data',
      message: 'user.name: must be a string'
    })
    await t.rejects(client.call('refuse'), { code: 'too_late', message: 'The auction has ended' })
    for (const name of ['break', 'break', 'large', 'cycle']) {
      const error = await client.call(name).catch((err: unknown) => err)
      t.match(error, { code: 'internal' }, name)
      t.notMatch(error, { message: /secret/ })
    }
    await t.rejects(client.call('busy'), { code: 'unavailable' })
    await t.rejects(client.call('nothing'), { code: 'unknown_call' })
    await t.rejects(client.call('toString'), { code: 'unknown_call' })
    await t.rejects(client.call('echo', 1n), { code: 'unserialisable' })
    const answers = await Promise.all(Array.from({ length: 100 }, (_none, n) => client.call('echo', n)))
    t.same(
      answers,
      Array.from({ length: 100 }, (_none, n) => n)
    )
  })

  await parent.test('and the handler learns that its client no longer waits', async (t) => {
    const client = open(t, server.ws)
    const abort = new AbortController()
    const aborted = client.call('wait', 1, { signal: abort.signal })
    const late = client.call('wait', 2, { timeout: 200 })
    const left = client.call('wait', 3)
    await until(() => waiting.length === 3)
    const signals = waiting.map(({ call }) => call.signal)
    await t.rejects(late, { code: 'timeout' })
    abort.abort(new Error('changed my mind'))
    await t.rejects(aborted, { message: 'changed my mind' })
    await until(() => signals[0]!.aborted && signals[1]!.aborted)
    t.equal(signals[2]!.aborted, false)
    for (const { answer } of waiting.slice(0, 2)) answer('too late')
    t.equal(await client.call('echo', 'still here'), 'still here')
    await t.rejects(client.call('wait', 4, { signal: AbortSignal.abort() }), { name: 'AbortError' })
    client.close()
    await t.rejects(left, { code: 'closed' })
    await until(() => signals[2]!.aborted)
    await t.rejects(client.call('echo'), { code: 'closed' })
    t.equal(waiting.splice(0).length, 3)
  })

  await parent.test('and a lost connection repeats only what may be repeated', async (t) => {
    const proxy = await startProxy({ host: '127.0.0.1', port: Number(new URL(server.url).port) })
    t.teardown(() => proxy.stop())
    const client = open(t, `ws://127.0.0.1:${proxy.port}/ws`)
    const once = client.call('wait', 'once')
    const again = client.call('wait', 'again', { idempotent: true })
    await until(() => waiting.length === 2)
    proxy.cut()
    await t.rejects(once, { code: 'interrupted' })
    await until(() => waiting.length === 3)
    t.same(
      waiting.map(({ call }) => call.data),
      ['once', 'again', 'again']
    )
    waiting[2]!.answer('answered')
    t.equal(await again, 'answered')
    waiting.length = 0
    await proxy.refuse()
    await until(() => client.state === 'connecting')
    const early = client.call('echo', 'early')
    await proxy.restore()
    t.equal(await early, 'early', 'what was not sent waits for the connection')
  })

  await parent.test('and hostile frames are refused', async (t) => {
    const raw = await RawClient.open(t, server.ws)
    raw.send({ type: 'call', id: 1, name: 7 })
    t.match(await raw.next('error'), { id: 1, code: 'unknown_call' })
    raw.send({ type: 'call', id: 2, name: 'wait' })
    await until(() => waiting.length === 1)
    const from = raw.frames.length
    raw.send({ type: 'call', id: 2, name: 'echo' })
    t.match(await raw.next('error', from), { id: 2, code: 'bad_frame' })
    raw.send({ type: 'cancel', id: 9 })
    raw.send({ type: 'cancel' })
    raw.send({ type: 'cancel', id: 2 })
    await until(() => waiting[0]!.call.signal.aborted)
    raw.send({ type: 'call', name: 'echo', data: 'unanswered' })
    raw.send({ type: 'call', id: 3, name: 'echo', data: 'last' })
    t.match(await raw.next('result'), { id: 3, data: 'last' })
    t.equal(raw.of('result').length, 1)
    t.equal(calls.at(-2)!.data, 'unanswered')
  })

  await parent.test('and a call is named once, before the first connection', async (t) => {
    const app = (await startTestApp(t, redis.url)).app.broadcast
    const fails = (message: RegExp, ...args: unknown[]): void => {
      const onCall = app.onCall.bind(app) as (...values: unknown[]) => void
      t.throws(() => onCall(...args), { code: 'FLOTILLA_WS_ERR_OPTION', message }, String(message))
    }
    fails(/name of 1 to/, '', () => 1)
    fails(/name of 1 to/, 7, () => 1)
    fails(/'a'.*handler, got undefined/, 'a', {})
    fails(/'schema'/, 'a', { schema: { type: 'object' } }, () => 1)
    app.onCall('a', () => 1)
    fails(/before/, 'a', () => 1)
    const late = await startTestApp(t, redis.url)
    await RawClient.open(t, late.ws)
    t.throws(() => late.app.broadcast.onCall('b', () => 1), {
      code: 'FLOTILLA_WS_ERR_CALL_LATE',
      message: /'b'/
    })
  })

  await parent.test('and what authorize throws, even nothing, is an answer', async (t) => {
    const careless = await startTestApp(t, redis.url, {
      // As an app in JavaScript may.
      authorize: () => Promise.reject()
    })
    const raw = await RawClient.open(t, careless.ws)
    raw.send({ type: 'subscribe', id: 1, channel: 'news' })
    t.match(await raw.next('error'), { id: 1, code: 'unavailable' })
  })
})
