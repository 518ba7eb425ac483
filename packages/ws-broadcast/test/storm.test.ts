import { startApp, startProxy, startRedis, until } from '@flotilla/testbed'
import { test } from 'tap'
import { WebSocket } from 'ws'
import { connect } from '../src/client/index.js'
import { SubscribeQueue } from '../src/subscribe-queue.js'
import { RawClient, startTestApp } from './app.js'

test('the clients of a dead instance subscribe to all their channels at once, and all become ready', async (t) => {
  const [CLIENTS, CHANNELS] = [100, 100]
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const fleet = await startApp({
    script: new URL('delivery/instance.ts', import.meta.url),
    instances: 1,
    env: { REDIS_URL: redis.url }
  })
  t.teardown(() => fleet.stop())
  const [instance] = fleet.instances
  const honest = await RawClient.open(t, `${instance!.url.replace('http', 'ws')}/ws`)
  await honest.subscribe('load:honest')

  const errors: unknown[] = []
  const gaps: unknown[] = []
  const clients = Array.from({ length: CLIENTS }, () => connect(`${instance!.url}/ws`, { WebSocket }))
  t.teardown(() => {
    for (const client of clients) client.close()
  })
  let ready = 0
  const subscribing = clients.flatMap((client, index) => {
    client.on('error', ({ code }) => errors.push(code))
    client.on('gap', (gap) => gaps.push(gap))
    return Array.from({ length: CHANNELS }, async (_none, n) => {
      await client.subscribe(`load:${index}.${n}`).ready
      ready += 1
    })
  })
  await until(() => ready > 0, { timeout: 100_000 })
  honest.send({ type: 'subscribe', id: 'late', channel: 'load:late' })
  await until(() => honest.frames.some((frame) => 'id' in frame && frame.id === 'late'), { timeout: 100_000 })
  t.ok(ready < (CLIENTS * CHANNELS) / 2, `a client beside the storm has its turn: ${ready} before it`)
  await until(() => ready === CLIENTS * CHANNELS, {
    timeout: 200_000,
    interval: 100,
    message: 'all are ready'
  })
  await Promise.all(subscribing)
  t.same(errors, [])
  t.same(gaps, [])
  t.equal(honest.closed, undefined)
  t.same(honest.of('error'), [])
  t.match(await instance!.call({ do: 'stats' }), { subscriptions: CLIENTS * CHANNELS + 2 })
})

test('connections take turns, and those of one begin in order', async (t) => {
  const queue = new SubscribeQueue()
  const begun: string[] = []
  const ends: (() => void)[] = []
  const run = (connection: object, name: string): Promise<void> =>
    queue.run(connection, () => {
      begun.push(name)
      return new Promise((resolve) => ends.push(resolve))
    })
  const [many, few] = [{}, {}]
  const all = Array.from({ length: 300 }, (_none, n) => run(many, `many ${n}`))
  all.push(run(few, 'few 0'), run(few, 'few 1'))
  t.equal(begun.length, 256, 'so many are under way')
  t.ok(queue.retryAfterMs > 1000)
  for (const end of ends.splice(0, 4)) end()
  await until(() => begun.length === 260)
  t.same(begun.slice(256), ['many 256', 'few 0', 'many 257', 'few 1'])
  const finish = setInterval(() => {
    for (const end of ends.splice(0)) end()
  }, 1)
  await Promise.all(all)
  clearInterval(finish)
  t.equal(begun.length, 302)
  t.equal(queue.retryAfterMs, 1000)
})

test('while Redis is away the shipped client asks less and less often, and not before the server says', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const proxy = await startProxy({ host: redis.host, port: redis.port })
  t.teardown(() => proxy.stop())
  const server = await startTestApp(t, proxy.through(redis.url))
  const asked: number[] = []
  const refused: number[] = []
  class Counting extends WebSocket {
    constructor(url: string) {
      super(url)
      this.on('message', (data: Buffer) => {
        if (data.includes('"unavailable"')) refused.push(performance.now())
      })
    }

    override send(data: never, ...rest: never[]): void {
      if (String(data).includes('"subscribe"')) asked.push(performance.now())
      super.send(data, ...rest)
    }
  }
  const client = connect(server.ws, { WebSocket: Counting, reconnect: { min: 200, max: 1600 } })
  t.teardown(() => client.close())
  await until(() => client.state === 'open', { timeout: 30_000 })
  await proxy.refuse()
  const raw = await RawClient.open(t, server.ws)
  raw.send({ type: 'subscribe', id: 1, channel: 'load:raw' })
  const { ready } = client.subscribe('load:away')
  const refusal = await until(() => raw.of('error')[0], { timeout: 20_000 })
  t.match(refusal, { id: 1, code: 'unavailable' })
  t.ok(refusal.retryAfter! >= 1000)
  await until(() => asked.length >= 4, { timeout: 60_000 })
  const pauses = asked.slice(1).map((at, index) => at - refused[index]!)
  for (const [index, pause] of pauses.entries()) {
    const least = 1000 + 100 * 2 ** index
    t.ok(pause >= least - 5, `${pause} ms after failure ${index + 1}, at least ${least}`)
  }
  await proxy.restore()
  await ready
  await server.app.broadcast.publish('load:away', 'on')
})
