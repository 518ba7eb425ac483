import { setTimeout as sleep } from 'node:timers/promises'
import type { Socket } from 'node:net'
import { startRedis, until } from '@flotilla/testbed'
import { test } from 'tap'
import { RawClient, startTestApp } from './app.js'

/** Sends frames so that the server reads all of them at once. */
function sendTogether({ ws }: RawClient, ...frames: object[]): void {
  const { _socket: socket } = ws as unknown as { _socket: Socket }
  socket.cork()
  for (const frame of frames) ws.send(JSON.stringify(frame))
  socket.uncork()
}

test('commands to one channel take effect in the order they were sent', async (parent) => {
  const redis = await startRedis()
  parent.teardown(() => redis.stop())

  await parent.test('though they arrive together', async (t) => {
    const server = await startTestApp(t, redis.url)
    const client = await RawClient.open(t, server.ws)
    await client.subscribe('room:warm')
    for (let round = 0; round < 20; round += 1) {
      const channel = `room:${round % 2 ? 'warm' : round}`
      sendTogether(
        client,
        { type: 'subscribe', channel },
        { type: 'unsubscribe', channel },
        { type: 'subscribe', id: round, channel },
        { type: 'unsubscribe', channel }
      )
    }
    await client.subscribe('news')
    t.equal(server.app.broadcast.stats().subscriptions, 1, 'what was left stays left')
    t.same(await server.app.broadcast.presence('room:0'), [])
    t.same(await server.app.broadcast.presence('room:warm'), [])
  })

  await parent.test('though authorize takes longer for the first', async (t) => {
    const leaves: (() => void)[] = []
    const server = await startTestApp(t, redis.url, {
      authorize: async (_request, channel) => {
        if (channel === 'room:slow') await new Promise<void>((resolve) => leaves.push(resolve))
        return true
      }
    })
    const client = await RawClient.open(t, server.ws)
    sendTogether(
      client,
      { type: 'subscribe', channel: 'room:slow' },
      { type: 'unsubscribe', id: 'left', channel: 'room:slow' }
    )
    // Another channel does not wait for this one.
    await client.subscribe('room:fast')
    t.equal(client.of('unsubscribed').length, 0)
    leaves[0]!()
    await until(() => leaves.length === 2, { message: 'it is asked whether it sees who is there' })
    t.equal(client.of('unsubscribed').length, 0)
    leaves[1]!()
    await client.next('unsubscribed')
    t.equal(server.app.broadcast.stats().subscriptions, 1)

    client.send({ type: 'subscribe', id: 'back', channel: 'room:slow' })
    for (const data of [1, 2, 3, 4]) client.send({ type: 'publish', id: data, channel: 'room:slow', data })
    await until(() => leaves.length === 7, { message: 'all are asked for at once' })
    for (const leave of leaves.toReversed()) leave()
    await until(() => leaves.length === 8)
    t.same(client.of('published'), [], 'none goes before the subscribe')
    leaves[7]!()
    await client.count(4)
    t.same(client.data(), [1, 2, 3, 4])
  })

  await parent.test('and one that is refused or fails holds up nobody', async (t) => {
    const server = await startTestApp(t, redis.url, {
      authorize: async (_request, channel, action) => {
        await sleep(action === 'publish' ? 1 : 30)
        if (channel === 'room:broken' && action === 'presence') throw new Error('no database')
        return action !== 'presence'
      }
    })
    const client = await RawClient.open(t, server.ws)
    for (const [channel, code, subscribed] of [
      ['room:shut', 'forbidden', { type: 'subscribed' }],
      ['room:broken', 'unavailable', { type: 'error', code: 'unavailable' }]
    ] as const) {
      const from = client.frames.length
      sendTogether(
        client,
        { type: 'presence', id: 1, channel },
        { type: 'subscribe', id: 2, channel },
        { type: 'publish', id: 3, channel, data: channel }
      )
      t.match(await client.next('error', from), { id: 1, channel, code })
      t.match(await client.next('published', from), { id: 3, channel })
      const answer = await until(() =>
        client.frames.slice(from).find((frame) => 'id' in frame && frame.id === 2)
      )
      t.match(answer, { channel, ...subscribed })
    }
  })
})
