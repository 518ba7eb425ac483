// Compiled by `pnpm types`, never run: each line must mean what it says.
import type { FastifyInstance } from 'fastify'
import type { RedisClient } from '@flotilla/redis'
import type { BroadcastClient, BroadcastError, MessageEvent } from '../../src/client/index.js'
import {
  flotillaBroadcast,
  type CLOSE,
  type Member,
  type PublishResult,
  type Schema,
  type ServerFrame
} from '../../src/index.js'
import { createPublisher } from '../../src/publisher.js'

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const yes = <_Check extends true>(): void => undefined

export async function server(app: FastifyInstance, redis: RedisClient): Promise<void> {
  await app.register(flotillaBroadcast, {
    channels: { news: { history: { size: 10, ttl: '1m' } }, 'room:*': { presence: (request) => request.ip } },
    authenticate: async (request) => (request.headers.authorization ? { userId: 'u' } : null),
    authorize: (_request, channel, action) => channel === 'news' && action === 'subscribe',
    origins: 'any',
    redis
  })
  // @ts-expect-error channels are required
  await app.register(flotillaBroadcast, {})
  // @ts-expect-error there is no such policy
  await app.register(flotillaBroadcast, { channels: { news: { backpressure: 'wait' } } })

  const result = await app.broadcast.publish('news', { id: 1 }, { idempotencyKey: 'k', durable: true })
  yes<Same<typeof result, PublishResult>>()
  yes<Same<typeof result.offset, string | undefined>>()
  const members = await app.broadcast.presence('room:1')
  yes<Same<typeof members, Member[]>>()
  await app.broadcast.disconnect({ userId: 'u' }, { code: 4000 })
  // @ts-expect-error a connection is named by an id
  await app.broadcast.disconnect({ connection: 7 })
  app.get('/own', { websocket: true }, (socket, request) => {
    const id: string = app.broadcast.attach(socket, request, { channels: ['news'] })
    return void id
  })
  const schema = {} as Schema<{ name: string }>
  app.broadcast.onCall('rename', { schema }, ({ data, signal }) => {
    yes<Same<typeof data, { name: string }>>()
    yes<Same<typeof signal, AbortSignal>>()
    return data.name
  })
  app.broadcast.onCall('any', ({ data }) => yes<Same<typeof data, unknown>>())
  // @ts-expect-error a call has a handler
  app.broadcast.onCall('none', { schema })
  const publisher = createPublisher({ redis, channels: { news: {} } })
  await publisher.publish('news', 1)
  yes<Same<typeof CLOSE.UNAUTHORIZED, 4401>>()
}

export function client(connection: BroadcastClient, frame: ServerFrame): void {
  connection.subscribe<{ n: number }>('news', ({ data, position }) => {
    yes<Same<typeof data, { n: number }>>()
    yes<Same<typeof position, { readonly epoch: string; readonly offset: string } | undefined>>()
  })
  void connection.publish('news', 1, { idempotencyKey: 'k' })
  // @ts-expect-error a key is a string
  void connection.publish('news', 1, { idempotencyKey: 7 })
  void connection.call<number>('count').then((count) => yes<Same<typeof count, number>>())
  void connection.call('count', undefined, { signal: AbortSignal.timeout(1), idempotent: true })
  connection.on('message', (message: MessageEvent) => message.channel)
  connection.on('state', ({ state }) => yes<Same<typeof state, 'connecting' | 'open' | 'closed'>>())
  connection.on('error', (error) => yes<Same<typeof error, BroadcastError>>())
  connection.on('error', ({ code }) => code === 'forbidden')
  // An app has codes of its own.
  connection.on('error', ({ code }) => code === 'too_rude')
  // @ts-expect-error there is no such event
  connection.on('nothing', () => undefined)
  if (frame.type === 'gap') yes<Same<typeof frame.channel, string>>()
}
