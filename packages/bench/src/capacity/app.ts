/* The process that is measured: an app with every plugin, told by its parent what to do many times. */
import cache from '@flotilla/cache'
import database from '@flotilla/db-router'
import redis from '@flotilla/redis'
import session, { type Session } from '@flotilla/session'
import broadcast from '@flotilla/ws-broadcast'
import fastify from 'fastify'
import { Pool } from 'pg'

const env = process.env as Record<string, string>
const app = fastify()
const PARALLEL = 16

await app.register(redis, { url: env['REDIS_URL']! })
await app.register(session, { secret: 'measured with a secret of 32 bytes', cookie: { secure: false } })
await app.register(cache, { ttl: '1h' })
await app.register(database, {
  primary: env['DATABASE_URL']!,
  replicas: [env['DATABASE_REPLICA_URL']!],
  carrier: false
})
await app.register(broadcast, { channels: { news: { history: { size: 100_000, ttl: '1h' } }, idle: {} } })

app.get<{ Querystring: { user: string } }>('/login', async (request) => {
  const own = request.session as unknown as Session
  await own.login(request.query.user)
  return {}
})
app.get('/read', async (request) => ({ user: (request.session as unknown as Session).userId }))

/** A text of 100 characters, the payload of everything that is stored. */
const text = (n: number): string => `${n} `.padEnd(100, '.')
const pool = new Pool({ connectionString: env['DATABASE_REPLICA_URL'] })
const QUERY = 'SELECT $1::int AS n'

const once: Record<string, (n: number) => Promise<unknown>> = {
  async session(n) {
    const { statusCode } = await app.inject(`/login?user=user-${n}`)
    if (statusCode !== 200) throw new Error(`login answered ${statusCode}`)
  },
  'cached key': (n) => app.cache.set(`key-${n}`, text(n)),
  'history message': (n) => app.broadcast.publish('news', text(n)),
  // Nobody listens on this instance but those who are `idle` otherwise.
  'delivered message': (n) => app.broadcast.publish('idle', text(n)),
  'routed query': (n) => app.db.session().read.query(QUERY, [n]),
  'pg query': (n) => pool.query(QUERY, [n])
}

/** Does it `count` times, sixteen at once; microseconds of CPU of this process for each. */
async function repeat(what: string, count: number): Promise<number> {
  const work = once[what]!
  let next = 0
  const before = cpu()
  await Promise.all(
    Array.from({ length: PARALLEL }, async () => {
      while (next < count) await work(next++)
    })
  )
  return (cpu() - before) / count
}

/** Microseconds of CPU since the process began. */
function cpu(): number {
  const { user, system } = process.cpuUsage()
  return user + system
}

function memory(): number {
  for (let turn = 0; turn < 3; turn++) globalThis.gc?.()
  // Not the resident size: that moves in steps, by what V8 keeps in reserve.
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

process.on('message', ({ id, message }: { id: number; message: { what: string; count: number } }) => {
  const read = { memory, cpu }[message.what]
  const answer = read ? Promise.resolve(read()) : repeat(message.what, message.count)
  answer.then(
    (reply) => process.send?.({ id, reply }),
    (error: Error) => process.send?.({ id, error: error.message })
  )
})

const url = await app.listen({ host: env['HOST']!, port: Number(env['PORT']) })
process.send?.({ ready: true, url })
