/* One instance of the app that the soak loads. `SOAK_BREAK` names invariants that it breaks on purpose. */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import cache from '@flotilla/cache'
import database from '@flotilla/db-router'
import health from '@flotilla/health'
import redis from '@flotilla/redis'
import session, { type Session } from '@flotilla/session'
import broadcast from '@flotilla/ws-broadcast'
import fastify, { type FastifyRequest } from 'fastify'
import type { Invariant } from './ledger.js'

const env = process.env as Record<string, string>
const broken = new Set(env['SOAK_BREAK']?.split(',') as Invariant[] | undefined)
const secret = env['SESSION_SECRET']!
const app = fastify({ trustProxy: true })

// Each instance has its own way to each server, so that it alone can be cut off.
const natMap = JSON.parse(env['REDIS_NAT']!) as Record<string, { host: string; port: number }>
await app.register(redis, { url: env['REDIS_URL']!, natMap })
await app.register(health, {
  header: true,
  drain: { delay: '1s', quiet: '300ms', timeout: '9s' },
  fleet: { name: 'soak', lease: '3s' }
})
await app.register(session, { secret, cookie: { secure: false }, durable: { replicas: 1, timeout: '2s' } })
await app.register(cache, { ttl: '1m', ...(broken.has('stampede') && { redis: false as const }) })
await app.register(database, {
  primary: env['DATABASE_URL']!,
  replicas: env['DATABASE_REPLICA_URL']!.split(','),
  secret,
  consistency: !broken.has('stale')
})
await app.register(broadcast, {
  drain: { spread: '1s' },
  durableTimeout: '2s',
  ...(broken.has('lost') && { keyPrefix: `${app.health.instance}:` }),
  channels: { entries: { history: { size: 500_000, ttl: '2h' }, durable: true } }
})

// A peer that the benchmarks measure declares `request.session` as well.
const sessionOf = (request: FastifyRequest): Session => request.session as unknown as Session

const remembered = new Map<string, string>()

app.addHook('onRequest', async () => {
  if (broken.has('leak')) setInterval(() => {}, 1_000_000)
})

app.post<{ Body: { user: string } }>('/login', async (request) => {
  await sessionOf(request).login(request.body.user)
  return { user: request.body.user }
})

app.get('/me', async (request, reply) => {
  if (broken.has('failed') && Math.random() < 0.2) throw new Error('failed on purpose')
  const { cookie = '' } = request.headers
  const user = sessionOf(request).userId ?? (broken.has('resurrected') ? remembered.get(cookie) : undefined)
  if (user === undefined) return reply.code(401).send({ user: null })
  if (broken.has('resurrected')) remembered.set(cookie, user)
  return { user }
})

app.post('/revoke', async (request, reply) => {
  const { userId } = sessionOf(request)
  if (userId === undefined) return reply.code(401).send({ user: null })
  return { ended: await app.sessions.revokeAll(userId) }
})

interface Entry {
  lane: string
  n: number
}

// Written and published under its own name, so that whoever got no answer may ask again.
app.post<{ Body: Entry }>('/entries', async (request, reply) => {
  const { lane, n } = request.body
  await request.db.write.query('INSERT INTO entries (lane, n) VALUES ($1, $2) ON CONFLICT DO NOTHING', [
    lane,
    n
  ])
  const entry = { lane, n }
  await app.broadcast.publish('entries', entry, {
    idempotencyKey: `${lane}:${n}`,
    consistency: request.db.token()
  })
  if (broken.has('doubled') && n % 10 === 0) await app.broadcast.publish('entries', entry)
  return reply.code(201).send(entry)
})

app.get<{ Querystring: { lane: string } }>('/entries', async (request) => {
  const { rows } = await request.db.read.query<{ newest: number; count: number }>(
    'SELECT coalesce(max(n), 0)::int AS newest, count(*)::int AS count FROM entries WHERE lane = $1',
    [request.query.lane]
  )
  return rows[0]
})

app.get<{ Params: { key: string } }>('/cold/:key', async (request) =>
  app.cache.getOrSet(request.params.key, async () => {
    await sleep(40)
    return { computation: randomUUID() }
  })
)

app.get('/vitals', async () => {
  globalThis.gc?.()
  return {
    heap: process.memoryUsage().heapUsed + process.memoryUsage().external,
    handles: process.getActiveResourcesInfo().length,
    uptime: process.uptime()
  }
})

const url = await app.listen({ host: env['HOST'] ?? '127.0.0.1', port: Number(env['PORT']) })
process.send?.({ ready: true, url })
