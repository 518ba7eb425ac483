import cache from '@flotilla/cache'
import redis, { type RedisPluginOptions } from '@flotilla/redis'
import session from '@flotilla/session'
import { startRedis, until } from '@flotilla/testbed'
import broadcast from '@flotilla/ws-broadcast'
import { connect } from '@flotilla/ws-broadcast/client'
import Fastify, { type FastifyInstance } from 'fastify'
import { randomBytes } from 'node:crypto'
import type { AddressInfo } from 'node:net'
import { test, type Test } from 'tap'
import { WebSocket } from 'ws'

const secret = randomBytes(32).toString('base64url')

interface Neighbour {
  readonly redis: Partial<RedisPluginOptions>
  /** Key prefix of each plugin; default its own. */
  readonly prefix?: string
}

interface Visitor {
  readonly heard: unknown[]
  readonly closed: number[]
}

async function startNeighbour(t: Test, url: string, { redis: options, prefix }: Neighbour) {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  await app.register(redis, { url, ...options } as RedisPluginOptions)
  await app.register(session, { secret, ...(prefix !== undefined && { prefix: `${prefix}session:` }) })
  const keyPrefix = prefix === undefined ? {} : { keyPrefix: prefix }
  await app.register(cache, { ttl: '5m', ...keyPrefix })
  await app.register(broadcast, {
    channels: { news: { history: {} }, plain: {} },
    authenticate: () => ({ userId: 'u1' }),
    ...keyPrefix
  })
  const revoked: unknown[] = []
  app.bus.subscribe('session.revoked', (payload) => revoked.push(payload))
  await app.listen({ port: 0, host: '127.0.0.1' })
  return { app, revoked, visitor: await visit(t, app) }
}

async function visit(t: Test, app: FastifyInstance): Promise<Visitor> {
  const { port } = app.server.address() as AddressInfo
  const url = `ws://127.0.0.1:${port}/ws`
  const client = connect(url, { WebSocket })
  t.teardown(() => client.close())
  const heard: unknown[] = []
  for (const channel of ['news', 'plain']) {
    await client.subscribe(channel, ({ data }) => heard.push(data)).ready
  }
  const closed: number[] = []
  const socket = new WebSocket(url)
  t.teardown(() => socket.terminate())
  socket.on('close', (code) => closed.push(code))
  await new Promise((resolve) => socket.once('open', resolve))
  return { heard, closed }
}

const neighbours: [name: string, one: Neighbour, other: Neighbour][] = [
  ['database numbers', { redis: { db: 0 } }, { redis: { db: 2 } }],
  ['key prefixes of the client', { redis: { keyPrefix: 'a:' } }, { redis: { keyPrefix: 'b:' } }],
  ['a key prefix in another database', { redis: { db: 2 } }, { redis: { db: 3, keyPrefix: 'a:' } }],
  ['key prefixes of the plugins', { redis: {}, prefix: 'a:' }, { redis: {}, prefix: 'b:' }],
  ['a key prefix and the default', { redis: {}, prefix: 'a:' }, { redis: {} }]
]

test('apps that share a Redis by different names leave each other alone', async (suite) => {
  for (const [name, one, other] of neighbours) {
    await suite.test(name, async (t: Test) => {
      const server = await startRedis()
      t.teardown(() => server.stop())
      const first = await startNeighbour(t, server.url, one)
      const second = await startNeighbour(t, server.url, one)
      const stranger = await startNeighbour(t, server.url, other)
      const all = [first, second, stranger]
      for (const { app } of all) {
        await app.cache.set('k', 'kept', { tags: ['tag'] })
        await app.cache.get('k')
      }
      await until(async () => (await second.app.cache.get('k')) === 'kept')

      await first.app.broadcast.publish('news', 'with history')
      await first.app.broadcast.publish('plain', 'without')
      const { id } = await first.app.sessions.create('u1', {})
      await first.app.sessions.revokeAll('u1')
      t.equal(await first.app.sessions.get(id!), undefined)
      await first.app.cache.invalidateTags(['tag'])
      await first.app.broadcast.disconnect({ userId: 'u1' })

      // The rest of its own fleet gets it all.
      await until(() => second.revoked.length === 1)
      await until(() => second.app.cache.peek('k') === undefined)
      await until(() => second.visitor.closed.length === 1)
      t.same(second.visitor.heard, ['with history', 'without'])
      // Redis delivers in order: with this one everything before has arrived.
      const own: unknown[] = []
      stranger.app.bus.subscribe('own', (payload) => own.push(payload))
      await stranger.app.bus.publish('own', 1)
      await stranger.app.broadcast.publish('plain', 'its own')
      await until(() => own.length === 1 && stranger.visitor.heard.length > 0)
      t.same(stranger.visitor.heard, ['its own'], 'no message of the others')
      t.same(stranger.visitor.closed, [], 'its visitors stay')
      t.same(stranger.revoked, [], 'no session of its own has ended')
      t.equal(stranger.app.cache.peek('k'), 'kept', 'its memory is untouched')
      await Promise.all(all.map(({ app }) => app.close()))
    })
  }
})

test('a fill on one instance wakes a caller that waits on another, with a key prefix and a database too', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const fleet = await Promise.all(
    [1, 2].map(async () => {
      const app = Fastify()
      t.teardown(() => app.close())
      await app.register(redis, { url: `${server.url}/2`, keyPrefix: 'a:' })
      await app.register(cache, { ttl: '5m' })
      await app.ready()
      return app
    })
  )
  const [one, two] = fleet as [FastifyInstance, FastifyInstance]
  let fill: (value: string) => void = () => {}
  const filled = one.cache.getOrSet('slow', () => new Promise<string>((resolve) => (fill = resolve)))
  const lease = (): Promise<string | null> => one.redis.get('flotilla:l:{slow}')
  await until(async () => (await lease()) !== null)
  const waiting = two.cache.getOrSet('slow', () => 'computed twice')
  await until(async () => (await lease())?.endsWith('!'), { message: 'the lease says that a caller waits' })
  const published: string[] = []
  const listener = server.client()
  await listener.psubscribe('*filled')
  listener.on('pmessage', (_pattern, channel: string) => published.push(channel))
  fill('computed once')
  t.equal(await filled, 'computed once')
  t.equal(await waiting, 'computed once')
  await until(() => published.length > 0)
  t.same(published, ['a:@db2:flotilla:filled'])
  t.same(
    await server.command('PUBSUB', 'NUMSUB', published[0]!),
    [published[0], 2],
    'which is what both instances are subscribed to'
  )
})
