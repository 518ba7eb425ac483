import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { flotillaRedis } from '@flotilla/redis'
import { flotillaBroadcast } from '@flotilla/ws-broadcast'
import { createAdapter, createShardedAdapter } from '@socket.io/redis-adapter'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { Server } from 'socket.io'
import { WebSocketServer, type WebSocket } from 'ws'
import { serveSubjects, type ServedSubject } from '../harness/subject.js'
import { serveDriver } from './ws/driver.js'

const LIST = JSON.stringify(Array.from({ length: 1000 }, (_none, index) => index))

/** Resident memory after a full collection, in bytes; of the young generation all is resident, used or not. */
const memory = async (): Promise<number> => {
  for (let done = 0; done < 10_000; done += 1) JSON.parse(LIST)
  for (let turn = 0; turn < 3; turn += 1) {
    globalThis.gc?.()
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return process.memoryUsage().rss
}

serveSubjects({
  async flotilla({ env }) {
    const app = Fastify({ forceCloseConnections: true })
    await app.register(flotillaRedis, { url: env['REDIS_URL']! })
    await app.register(flotillaBroadcast, {
      channels: {
        'fan:*': { history: { size: 1000, ttl: '10m' }, publish: 'client' },
        'plain:*': { publish: 'client' },
        'many:*': { history: { size: 10, ttl: '10m' } }
      },
      maxConnections: 1_000_000,
      maxChannels: 1000,
      rate: { perSecond: 1_000_000, burst: 1_000_000 }
    })
    app.post<{ Querystring: Record<string, string> }>('/publish', async ({ query }) => {
      const { channel, from, count } = readPublish(query)
      await Promise.all(
        Array.from({ length: count }, (_none, index) => app.broadcast.publish(channel, { n: from + index }))
      )
      return 'ok'
    })
    return { app, work: { memory } }
  },

  /** `ws` in a loop over its own sockets, and raw Redis pub/sub between the processes. */
  async floor({ env }) {
    const publisher = new Redis(env['REDIS_URL']!)
    const subscriber = publisher.duplicate()
    const members = new Map<string, Set<WebSocket>>()
    const fan = (channel: string, body: string): void => {
      for (const socket of members.get(channel) ?? []) socket.send(body)
    }
    subscriber.on('message', fan)
    const server = createServer()
    new WebSocketServer({ server, path: '/ws', perMessageDeflate: false }).on('connection', (socket) => {
      socket.on('message', (text: Buffer) => {
        const { subscribe, publish, data } = JSON.parse(text.toString()) as Record<string, string>
        if (publish !== undefined) void publisher.publish(publish, JSON.stringify({ channel: publish, data }))
        if (subscribe === undefined) return
        const existing = members.get(subscribe)
        if (existing) existing.add(socket)
        else members.set(subscribe, new Set([socket]))
        socket.on('close', () => members.get(subscribe)?.delete(socket))
        // `fan:1` is the loop alone: its messages come from this process.
        const ready = existing || subscribe === 'fan:1' ? Promise.resolve() : subscriber.subscribe(subscribe)
        void Promise.resolve(ready).then(() => socket.send(JSON.stringify({ subscribed: subscribe })))
      })
    })
    return listen(server, (channel, data) => {
      const body = JSON.stringify({ channel, data })
      if (channel === 'fan:1') fan(channel, body)
      else void publisher.publish(channel, body)
    })
  },

  'socket.io': ({ env }) => socketIo(env['REDIS_URL']!, false),
  'socket.io-sharded': ({ env }) => socketIo(env['REDIS_URL']!, true),

  driver: serveDriver,
  ...Object.fromEntries(
    ['flotilla', 'floor', 'socket.io', 'socket.io-sharded'].map((name) => [`driver of ${name}`, serveDriver])
  )
})

function socketIo(url: string, sharded: boolean): Promise<ServedSubject> {
  const publisher = new Redis(url)
  const subscriber = publisher.duplicate()
  const server = createServer()
  const sockets = new Server(server, {
    transports: ['websocket'],
    perMessageDeflate: false,
    adapter: sharded ? createShardedAdapter(publisher, subscriber) : createAdapter(publisher, subscriber)
  })
  sockets.on('connection', (socket) => {
    socket.on('subscribe', async (channel: string) => {
      await socket.join(channel)
      // The adapters do not wait for Redis. The reply to a later command of the same connection tells that it is done.
      await (sharded ? subscriber.ssubscribe('confirmed') : subscriber.subscribe('confirmed'))
      socket.emit('subscribed', channel)
    })
    socket.on('publish', (channel: string, data: unknown) => {
      sockets.to(channel).emit('message', data)
    })
  })
  return listen(server, (channel, data) => {
    sockets.to(channel).emit('message', data)
  })
}

async function listen(
  server: ReturnType<typeof createServer>,
  publish: (channel: string, data: unknown) => void
): Promise<ServedSubject> {
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    const url = new URL(request.url!, 'http://localhost')
    if (url.pathname !== '/publish') return // a handshake, which socket.io answers
    const { channel, from, count } = readPublish(Object.fromEntries(url.searchParams))
    for (let index = 0; index < count; index += 1) publish(channel, { n: from + index })
    response.end('ok')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, work: { memory } }
}

function readPublish(query: Record<string, string>): { channel: string; from: number; count: number } {
  return { channel: query['channel']!, from: Number(query['from']), count: Number(query['count']) }
}
