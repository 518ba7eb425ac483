import { flotillaRedis } from '@flotilla/redis'
import Fastify from 'fastify'
import { flotillaBroadcast, type BroadcastOptions } from '../../src/index.js'

/** One app process for the tests that kill them: REDIS_URL, and BROADCAST as JSON options. */
const app = Fastify({ forceCloseConnections: true })
await app.register(flotillaRedis, { url: process.env['REDIS_URL']! })
await app.register(flotillaBroadcast, {
  channels: {
    'load:*': { history: { size: 20_000, ttl: '10m' }, durable: true },
    'room:*': { presence: true, publish: 'client', history: {} },
    'plain:*': {}
  },
  ...(JSON.parse(process.env['BROADCAST'] ?? '{}') as Partial<BroadcastOptions>)
})

process.on('message', ({ id, message }: { id: number; message: { do: string; channel?: string } }) => {
  const run = async (): Promise<unknown> => {
    if (message.do === 'presence') return app.broadcast.presence(message.channel!)
    if (message.do === 'memory') return process.memoryUsage()
    return app.broadcast.stats()
  }
  run().then(
    (reply) => process.send!({ id, reply }),
    (error: Error) => process.send!({ id, error: error.message })
  )
})
process.once('SIGTERM', () => {
  void app.close().then(() => process.exit(0))
})
const url = await app.listen({ port: Number(process.env['PORT']), host: process.env['HOST']! })
process.send!({ ready: true, url })
