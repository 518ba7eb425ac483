/* An app as `fastify start` runs it: a plugin, whose server and signal handlers are fastify-cli's. */
import { setTimeout as sleep } from 'node:timers/promises'
import health from '@flotilla/health'

export default async function app(fastify, { HEALTH }) {
  await fastify.register(health, JSON.parse(process.env.HEALTH ?? HEALTH ?? '{}'))
  fastify.get('/', async () => ({ pid: process.pid }))
  fastify.get('/slow', async ({ query }) => {
    await sleep(Number(query.ms))
    return { slept: Number(query.ms) }
  })
}
