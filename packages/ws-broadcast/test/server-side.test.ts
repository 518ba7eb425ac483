import { startRedis, until } from '@flotilla/testbed'
import { test, type Test } from 'tap'
import { WebSocket } from 'ws'
import { connect, type BroadcastClient } from '../src/client/index.js'
import type { BroadcastOptions, Position, PublishResult, Schema } from '../src/index.js'
import { RawClient, startTestApp } from './app.js'

const options: Partial<BroadcastOptions> = {
  authenticate: ({ query }) => query as { userId?: string },
  authorize: (_request, channel, action) => channel !== 'room:closed' || action === 'presence',
  highWaterMark: '64kb'
}

function open(t: Test, url: string): BroadcastClient {
  const client = connect(url, { WebSocket, reconnect: { min: 20, max: 100 } })
  t.teardown(() => client.close())
  return client
}

function positionOf({ epoch, offset }: PublishResult): Position {
  return { epoch: epoch!, offset: offset! }
}

test('the server has a say', async (parent) => {
  const redis = await startRedis()
  parent.teardown(() => redis.stop())
  const [a, b] = [
    await startTestApp(parent, redis.url, options),
    await startTestApp(parent, redis.url, options)
  ]
  await Promise.all([a.app.bus.ready(), b.app.bus.ready()])
  const { broadcast } = a.app

  await parent.test('it subscribes connections, on every instance', async (t) => {
    const [one, two, other] = [
      open(t, `${a.ws}?userId=u1`),
      open(t, `${b.ws}?userId=u1`),
      open(t, `${b.ws}?userId=u2`)
    ]
    const all = [one, two, other]
    const seen: unknown[][] = [[], [], []]
    for (const [index, client] of all.entries()) client.on('message', ({ data }) => seen[index]!.push(data))
    await until(() => all.every(({ state }) => state === 'open'))
    // Its client could not: the server decides.
    await broadcast.subscribe({ userId: 'u1' }, 'room:closed')
    await until(async () => (await broadcast.presence('room:closed')).length === 2)
    await broadcast.publish('room:closed', 1)
    await until(() => seen[0]!.length + seen[1]!.length === 2)
    const handled: unknown[] = []
    await one.subscribe('room:closed', ({ data }) => handled.push(data)).ready
    const errors: unknown[] = []
    one.on('error', ({ code, channel }) => errors.push([code, channel]))
    await broadcast.publish('room:closed', 2)
    await until(() => seen[0]!.length + seen[1]!.length === 4)
    t.same(handled, [2], 'its client joins in')
    await broadcast.unsubscribe({ connection: one.connection! }, 'room:closed')
    await until(() => errors.length > 0)
    t.same(errors, [['unsubscribed', 'room:closed']])
    await b.app.broadcast.publish('room:closed', 3)
    await until(() => seen[1]!.length === 3)
    await broadcast.subscribe({ connection: other.connection! }, 'room:closed')
    await until(async () => (await broadcast.presence('room:closed')).length === 2)
    await broadcast.publish('room:closed', 4)
    await until(() => seen[1]!.length + seen[2]!.length === 5)
    t.same(seen, [[1, 2], [1, 2, 3, 4], [4]])

    // A new connection is not where the server put the old one.
    const before = two.connection!
    await broadcast.disconnect({ connection: before }, { code: 4000 })
    await until(() => two.connection !== undefined && two.connection !== before)
    await until(async () => (await broadcast.presence('room:closed')).length === 1)
    await broadcast.publish('room:closed', 5)
    await until(() => seen[2]!.length === 2)
    t.equal(seen[1]!.length, 4)
  })

  await parent.test('which leaves alone what a client has subscribed to', async (t) => {
    const client = open(t, `${a.ws}?userId=u3`)
    const first = positionOf(await broadcast.publish('load:own', 1))
    await broadcast.publish('load:own', 2)
    const seen: unknown[] = []
    const { ready } = client.subscribe('load:own', ({ data }) => seen.push(data), { since: first })
    await until(() => client.state === 'open')
    await broadcast.subscribe({ userId: 'u3' }, 'load:own')
    await ready
    await broadcast.subscribe({ userId: 'u3' }, 'load:own')
    await broadcast.publish('load:own', 3)
    await until(() => seen.length === 2)
    t.same(seen, [2, 3])
    for (const filter of [{}, { userId: 7 }, null] as never[]) {
      await t.rejects(broadcast.subscribe(filter, 'news'), TypeError)
      await t.rejects(broadcast.unsubscribe(filter, 'news'), TypeError)
    }
    await t.rejects(broadcast.subscribe({ userId: 'u3' }, 'nowhere'), {
      code: 'FLOTILLA_WS_ERR_UNKNOWN_CHANNEL'
    })
    // What another version or another app says on the bus.
    for (const payload of [
      null,
      7,
      {},
      { move: 'enter', filter: {}, channel: 'news' },
      { move: 'x', filter: { userId: 'u3' }, channel: 'news' },
      { move: 'enter', filter: { userId: 'u3' }, channel: 'no where' },
      { move: 'enter', filter: { userId: 'u3' }, channel: 'nowhere' }
    ]) {
      await b.app.bus.publish('ws.membership', payload, { scope: 'flotilla:ws:' })
    }
    await b.app.broadcast.subscribe({ userId: 'u3' }, 'plain:last')
    await until(() => broadcast.stats().subscriptions === 2)
  })

  await parent.test('it publishes to all but one connection', async (t) => {
    const [one, two, three] = [
      await RawClient.open(t, a.ws),
      await RawClient.open(t, a.ws),
      await RawClient.open(t, b.ws)
    ]
    const exclude = one.of('welcome')[0]!.connection
    for (const channel of ['plain:but', 'load:but']) {
      for (const client of [one, two, three]) await client.subscribe(channel)
      const before = await broadcast.publish(channel, 1)
      await broadcast.publish(channel, 2, { exclude })
      await b.app.broadcast.publish(channel, 3, { exclude, conflateKey: 'a@b' })
      await broadcast.publish(channel, 4)
      for (const client of [two, three]) await client.count(4, channel)
      await one.count(2, channel)
      t.same(one.data(channel), [1, 4], channel)
      t.same(three.data(channel), [1, 2, 3, 4], channel)
      if (before.offset === undefined) continue
      await two.subscribe(channel, positionOf(before))
      await two.count(7, channel)
      await one.subscribe(channel, positionOf(before))
      await one.count(3, channel)
      t.same(one.data(channel), [1, 4, 4], 'nor does it get it from history')
      t.same(one.of('gap', channel), [])
    }
    await t.rejects(broadcast.publish('news', 1, { exclude: 'a b' }), { code: 'FLOTILLA_WS_ERR_OPTION' })
    await t.rejects(broadcast.publish('news', 1, { exclude: 7 as never }), { code: 'FLOTILLA_WS_ERR_OPTION' })
  })

  await parent.test('it publishes what no slow socket waits for', async (t) => {
    const [slow, quick] = [await RawClient.open(t, a.ws), await RawClient.open(t, b.ws)]
    for (const channel of ['load:cursor', 'plain:cursor']) {
      await slow.subscribe(channel)
      await quick.subscribe(channel)
      const result = await broadcast.publish(channel, 'first', { volatile: true })
      t.same(result, { duplicate: false }, 'it has no position')
      await slow.count(1, channel)
    }
    t.same(await broadcast.history('load:cursor'), [], 'nor is it stored')
    slow.ws.pause()
    let sent = 0
    await until(async () => {
      for (let n = 0; n < 20; n += 1) await broadcast.publish('load:cursor', (sent += 1) + 'x'.repeat(60_000))
      return broadcast.stats().slow === 1
    })
    for (let n = 0; n < 100; n += 1) await broadcast.publish('plain:cursor', n, { volatile: true })
    await quick.count(101, 'plain:cursor')
    t.equal(slow.closed, undefined, 'though the channel disconnects slow sockets')
    slow.ws.resume()
    await slow.count(sent + 1, 'load:cursor')
    await broadcast.publish('plain:cursor', 'last')
    await until(() => slow.data('plain:cursor').includes('last'))
    t.same([slow.data('plain:cursor'), slow.of('gap')], [['first', 'last'], []])
    await t.rejects(broadcast.publish('news', 1, { volatile: true, durable: true }), {
      code: 'FLOTILLA_WS_ERR_OPTION',
      message: /volatile or durable/
    })
  })

  await parent.test('it reads the history', async (t) => {
    const channel = 'load:history'
    t.same(await broadcast.history(channel), [])
    const positions: Position[] = []
    for (let n = 0; n < 10; n += 1)
      positions.push(positionOf(await broadcast.publish(channel, { n }, { consistency: 'token' })))
    const numbers = async (part: object): Promise<unknown[]> =>
      (await b.app.broadcast.history(channel, part)).map(({ data }) => (data as { n: number }).n)
    t.same(await numbers({ limit: 3 }), [7, 8, 9])
    t.same(await numbers({ limit: 3, before: positions[7] }), [4, 5, 6])
    t.same(await numbers({ limit: 3, after: positions[3] }), [4, 5, 6])
    t.same(await numbers({ after: positions[3], before: positions[6] }), [4, 5])
    t.same(await numbers({ limit: 1, after: positions[3], before: positions[6] }), [5])
    t.same(await broadcast.history(channel, { limit: 1 }), [
      { data: { n: 9 }, position: positions[9], token: 'token' }
    ])
    for (const part of [
      { limit: 0 },
      { limit: 1.5 },
      { limit: 1001 },
      { limit: '5' },
      { before: '1-0' },
      { after: { epoch: 'e', offset: '-' } }
    ]) {
      await t.rejects(broadcast.history(channel, part as object), {
        code: 'FLOTILLA_WS_ERR_OPTION',
        message: /history\(\) takes '(limit|before|after)'/
      })
    }
    await t.rejects(broadcast.history('plain:1'), { code: 'FLOTILLA_WS_ERR_NO_HISTORY' })
    await t.rejects(broadcast.history('nowhere'), { code: 'FLOTILLA_WS_ERR_UNKNOWN_CHANNEL' })
    const writer = await RawClient.open(t, `${a.ws}?userId=u5`)
    writer.send({ type: 'publish', id: 1, channel: 'room:read', data: 'hi', key: 'k' })
    await writer.next('published')
    t.match(await broadcast.history('room:read'), [{ data: 'hi', from: { userId: 'u5' } }])
  })

  await parent.test('its schemas check what clients publish', async (t) => {
    const Text: Schema<{ text: string }> = {
      '~standard': {
        version: 1,
        vendor: 'test',
        validate: (value) =>
          typeof value === 'string'
            ? { value: { text: value } }
            : { issues: [{ message: 'must be a string' }] }
      }
    }
    const seen: unknown[] = []
    const checked = await startTestApp(t, redis.url, {
      channels: {
        'say:*': { publish: 'client', history: {}, schema: Text },
        'tell:*': {
          publish: 'client',
          history: {},
          schema: Text,
          onPublish: ({ data }) => (seen.push(data), data)
        }
      }
    })
    const client = open(t, checked.ws)
    for (const channel of ['say:1', 'tell:1']) {
      await t.rejects(client.publish(channel, 7), { code: 'invalid_data', message: 'must be a string' })
      await client.publish(channel, 'hi')
      t.match(await checked.app.broadcast.history(channel), [{ data: { text: 'hi' } }])
    }
    t.same(seen, [{ text: 'hi' }])
    for (const rule of [{ schema: Text }, { publish: 'client' as const, schema: {} as never }]) {
      await t.rejects(startTestApp(t, redis.url, { channels: { news: rule } }), {
        code: 'FLOTILLA_WS_ERR_OPTION',
        message: /schema/
      })
    }
  })
})
