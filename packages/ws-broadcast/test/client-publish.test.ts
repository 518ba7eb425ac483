import { startRedis, until } from '@flotilla/testbed'
import { test } from 'tap'
import { WebSocket } from 'ws'
import { connect } from '../src/client/index.js'
import { PublishRefusedError, type ClientPublish } from '../src/index.js'
import { RawClient, startTestApp } from './app.js'

const authenticate = ({ query }: { query: unknown }): { userId?: string } => query as { userId?: string }

test('the server sees, changes and refuses what clients publish', async (parent) => {
  const redis = await startRedis()
  parent.teardown(() => redis.stop())

  await parent.test('each message says which client published it', async (t) => {
    const options = {
      authenticate,
      channels: {
        'room:*': { publish: 'client' as const, history: {} },
        'plain:*': { publish: 'client' as const }
      }
    }
    const [a, b] = [await startTestApp(t, redis.url, options), await startTestApp(t, redis.url, options)]
    const reader = await RawClient.open(t, b.ws)
    const writer = await RawClient.open(t, `${a.ws}?userId=u1`)
    const unknown = await RawClient.open(t, a.ws)
    const ids = [writer, unknown].map((client) => client.of('welcome')[0]!.connection)
    for (const channel of ['room:from', 'plain:from']) {
      await reader.subscribe(channel)
      // What it claims about itself changes nothing.
      writer.send({ type: 'publish', channel, data: 1, from: { connection: 'x', userId: 'admin' } })
      await reader.count(1, channel)
      unknown.send({ type: 'publish', channel, data: 2 })
      await reader.count(2, channel)
      await a.app.broadcast.publish(channel, 3)
      await reader.count(3, channel)
      t.same(
        reader.of('message', channel).map(({ from }) => from),
        [{ userId: 'u1', connection: ids[0] }, { connection: ids[1] }, undefined]
      )
    }
  })

  await parent.test('onPublish checks, changes and refuses, in order', async (t) => {
    const seen: ClientPublish[] = []
    let release: (() => void) | undefined
    const server = await startTestApp(t, redis.url, {
      authenticate,
      channels: {
        'room:*': {
          publish: 'client',
          history: {},
          onPublish: async (publish) => {
            seen.push(publish)
            const { data } = publish
            if (data === 'refuse') throw new PublishRefusedError('too_rude', 'Say it nicely')
            if (data === 'forget') return undefined
            if (data === 'break') throw new Error('no database')
            if (data === 'wait') await new Promise<void>((resolve) => (release = resolve))
            return { text: data }
          }
        }
      }
    })
    const client = connect(`${server.ws}?userId=u2`, { WebSocket })
    t.teardown(() => client.close())
    const got: unknown[] = []
    await client.subscribe('room:say', ({ data, from }) => got.push([data, from?.userId])).ready
    await client.publish('room:say', 'hello')
    await t.rejects(client.publish('room:say', 'refuse'), { code: 'too_rude', message: 'Say it nicely' })
    await t.rejects(client.publish('room:say', 'forget'), { code: 'forbidden' })
    await t.rejects(client.publish('room:say', 'break'), { code: 'unavailable' })
    const waiting = client.publish('room:say', 'wait')
    const after = client.publish('room:say', 'after')
    await until(() => seen.length === 6)
    t.same(got, [[{ text: 'hello' }, 'u2']])
    release!()
    await Promise.all([waiting, after])
    await until(() => got.length === 3)
    t.same(got, [
      [{ text: 'hello' }, 'u2'],
      [{ text: 'wait' }, 'u2'],
      [{ text: 'after' }, 'u2']
    ])
    t.match(seen[0], {
      identity: { userId: 'u2' },
      connection: client.connection,
      channel: 'room:say',
      data: 'hello'
    })
    t.ok(seen[0]!.request.headers.host)
    const raw = await RawClient.open(t, server.ws)
    raw.send({ type: 'publish', id: 1, channel: 'room:say' })
    t.match(await raw.next('error'), { id: 1, code: 'bad_frame' })
    t.equal(seen.length, 6, 'the app sees only what could be published')
  })

  await parent.test('it needs a channel to which clients publish', async (t) => {
    await t.rejects(startTestApp(t, redis.url, { channels: { news: { onPublish: ({ data }) => data } } }), {
      code: 'FLOTILLA_WS_ERR_OPTION',
      message: /onPublish/
    })
  })
})
