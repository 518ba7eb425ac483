/* Opens everything the plugin can open, closes it, and must then end by itself. */
import Fastify from 'fastify'
import redis from '@flotilla/redis'
import health from '../../src/index.js'

const any = Object.freeze({ port: 0, host: '127.0.0.1' })
const app = Fastify()
app.register(redis, { url: process.env['REDIS_URL']! })
app.register(health, {
  admin: any,
  agent: any,
  worker: { ...any, agentPort: 0 },
  metrics: true,
  overload: { rss: '10gb' },
  fleet: { lease: 500 }
})
await app.listen({ ...any })
app.health.addCheck('hangs', () => new Promise<void>(() => undefined))
for (const port of Object.values(app.health.ports))
  await fetch(`http://127.0.0.1:${port}/`).catch(() => undefined)
process.send?.({ ready: true })
await app.close()
process.disconnect()
