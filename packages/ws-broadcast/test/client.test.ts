import { gzipSync } from 'node:zlib'
import { startProxy, startRedis, until } from '@flotilla/testbed'
import { build } from 'esbuild'
import { test, type Test } from 'tap'
import { WebSocket } from 'ws'
import { connect, type BroadcastClient, type ClientOptions } from '../src/client/index.js'
import { startTestApp } from './app.js'

const FAST = { min: 20, max: 100 }

function open(t: Test, url: string, options: ClientOptions = {}): BroadcastClient {
  const client = connect(url, { WebSocket, reconnect: FAST, ...options })
  t.teardown(() => client.close())
  return client
}

test('the client', async (parent) => {
  const redis = await startRedis()
  parent.teardown(() => redis.stop())
  const server = await startTestApp(parent, redis.url)
  const proxy = await startProxy({ host: '127.0.0.1', port: Number(new URL(server.url).port) })
  parent.teardown(() => proxy.stop())
  const url = `http://127.0.0.1:${proxy.port}/ws`
  // Its own origin is the proxy's; that of a browser would be too.

  await parent.test('resumes after its connection was cut, without a gap or a duplicate', async (t) => {
    const client = open(t, url)
    const events: string[] = []
    client.on('state', ({ state }) => events.push(state))
    client.on('gap', ({ reason }) => events.push(reason))
    const seen: number[] = []
    const subscription = client.subscribe<number>('news', ({ data }) => seen.push(data))
    await subscription.ready
    for (let n = 0; n < 50; n += 1) {
      if (n % 10 === 3) proxy.cut()
      await server.app.broadcast.publish('news', n)
    }
    await until(() => seen.length >= 50)
    t.same(
      seen,
      Array.from({ length: 50 }, (_none, n) => n)
    )
    t.ok(events.filter((event) => event === 'open').length >= 2, events.join(' '))
    t.notOk(events.includes('trimmed'))
    t.ok(subscription.position)

    const later = open(t, url)
    const rest: unknown[] = []
    await server.app.broadcast.publish('news', 'after')
    later.subscribe('news', ({ data }) => rest.push(data), { since: subscription.position! })
    await until(() => rest.length > 0)
    t.same(rest, ['after'], 'a stored position resumes in another client')
  })

  await parent.test('a subscription made before there was a first message misses none of them', async (t) => {
    const client = open(t, url)
    const seen: unknown[] = []
    const gaps: unknown[] = []
    client.on('gap', (gap) => gaps.push(gap))
    await client.subscribe('load:fresh', ({ data }) => seen.push(data)).ready
    await proxy.refuse()
    await until(() => client.state === 'connecting')
    await server.app.broadcast.publish('load:fresh', 1)
    await proxy.restore()
    await until(() => seen.length > 0)
    t.same([seen, gaps], [[1], []])
  })

  await parent.test('a channel without history says that it may have missed something', async (t) => {
    const client = open(t, url)
    const gaps: string[] = []
    client.on('gap', ({ reason }) => gaps.push(reason))
    await client.subscribe('plain:1').ready
    t.same(gaps, [])
    proxy.cut()
    await until(() => gaps.length > 0)
    t.same(gaps, ['interrupted'])
  })

  await parent.test('publishes once, whatever the connection does', async (t) => {
    const client = open(t, url)
    const seen: unknown[] = []
    await client.subscribe('room:9', ({ data }) => seen.push(data)).ready
    const publishing = Array.from({ length: 20 }, async (_none, n) => {
      if (n === 10) setImmediate(() => proxy.cut())
      return client.publish('room:9', n)
    })
    const acks = await Promise.all(publishing)
    t.equal(new Set(acks.map(({ offset }) => offset)).size, 20)
    await until(() => seen.length >= 20)
    t.same(
      seen.toSorted((a, b) => Number(a) - Number(b)),
      Array.from({ length: 20 }, (_none, n) => n)
    )
  })

  await parent.test('presence, and its events', async (t) => {
    const [one, two] = [open(t, url), open(t, url)]
    const events: string[] = []
    one.on('presence', ({ type, member }) => events.push(`${type} ${member.id === two.connection}`))
    await one.subscribe('room:10').ready
    const other = two.subscribe('room:10')
    await other.ready
    await until(async () => (await one.presence('room:10')).length === 2)
    other.unsubscribe()
    await until(async () => (await one.presence('room:10')).length === 1)
    await until(() => events.includes('leave true'))
    t.ok(events.includes('join true'))
  })

  await parent.test('refusals', async (t) => {
    const client = open(t, url, { timeout: 300 })
    const errors: string[] = []
    client.on('error', ({ code, channel }) => errors.push(`${code} ${channel}`))
    await t.rejects(client.subscribe('nowhere').ready, { code: 'unknown_channel' })
    t.same(errors, ['unknown_channel nowhere'])
    await t.rejects(client.publish('news', 1), { code: 'forbidden' })
    await t.rejects(client.presence('news'), { code: 'no_presence' })
    await t.rejects(client.publish('room:1', 'x'.repeat(70_000)), { code: 'too_large' })
    await until(() => client.state === 'open')
    await server.app.broadcast.disconnect({ connection: client.connection! })
    await until(() => client.state === 'closed')
    await t.rejects(client.publish('room:1', 1), { code: 'closed' })
    const lonely = open(t, 'ws://127.0.0.1:1/ws', { timeout: 100 })
    await t.rejects(lonely.publish('room:1', 1), { code: 'timeout' })
    lonely.close()
    t.equal(lonely.state, 'closed')
    t.throws(() => connect('/ws', { WebSocket }), TypeError)
  })

  await parent.test(
    'what is asked of a closed client is refused, and so is what can never be answered',
    async (t) => {
      const client = open(t, url)
      const [known, pending] = [client.subscribe('news'), client.subscribe('load:never')]
      await known.ready
      pending.unsubscribe()
      await t.rejects(pending.ready, { code: 'unsubscribed' })
      client.close()
      await t.rejects(client.subscribe('news').ready, { code: 'closed' }, 'a channel it was in')
      await t.rejects(client.subscribe('load:new').ready, { code: 'closed' }, 'a new one')
      await t.rejects(client.publish('room:1', 1), { code: 'closed' })
      await t.rejects(client.presence('room:1'), { code: 'closed' })
    }
  )

  await parent.test('data that is no JSON is refused before anything is sent', async (t) => {
    const client = open(t, url)
    // Asked before the connection is open: what waits for it must not break it.
    await t.rejects(client.publish('room:1', 1n), { code: 'unserialisable' })
    await t.rejects(client.publish('room:1', undefined), { code: 'bad_frame' })
    await client.subscribe('news').ready
    await t.rejects(client.publish('room:1', { n: 1n }), { code: 'unserialisable' })
    t.ok((await client.publish('room:1', 'still here')).offset)
  })

  await parent.test('notices a server that went silent', async (t) => {
    const quick = await startTestApp(t, redis.url, { ping: { interval: 150, timeout: 5000 } })
    const through = await startProxy({ host: '127.0.0.1', port: Number(new URL(quick.url).port) })
    t.teardown(() => through.stop())
    const client = open(t, `ws://127.0.0.1:${through.port}/ws`)
    await client.subscribe('news').ready
    through.blackhole()
    await until(() => client.state === 'connecting')
    await through.restore()
    await until(() => client.state === 'open')
    t.pass('and comes back')
  })

  await parent.test('takes its time to reconnect when the server says so', async (t) => {
    const leaving = await startTestApp(t, redis.url)
    const client = open(t, leaving.ws)
    const states: unknown[] = []
    client.on('state', (state) => states.push(state))
    await until(() => client.state === 'open')
    await leaving.app.close()
    await until(() => client.state === 'connecting')
    t.match(states.at(-1), { state: 'connecting', code: 1012 })
  })
})

test('a browser bundle of the client stays under 4 kB gzipped', async (t) => {
  const { outputFiles } = await build({
    entryPoints: [new URL('../src/client/index.ts', import.meta.url).pathname],
    bundle: true,
    minify: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    write: false
  })
  const { length } = gzipSync(outputFiles[0]!.contents, { level: 9 })
  t.comment(`${length} bytes gzipped, ${outputFiles[0]!.contents.length} minified`)
  t.ok(length < 4096, `${length} bytes`)
})
