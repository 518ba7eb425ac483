import websocket from '@fastify/websocket'
import cache from '@flotilla/cache'
import database from '@flotilla/db-router'
import health from '@flotilla/health'
import redis from '@flotilla/redis'
import session from '@flotilla/session'
import broadcast from '@flotilla/ws-broadcast'
import fastify from 'fastify'

declare module '@flotilla/session' {
  interface SessionData {
    user: string
  }
}

interface Note {
  id: number
  author: string
  text: string
}

/** The same notice board, ready to run as many times as you like. */
export async function buildApp(env = process.env) {
  const app = fastify({ trustProxy: true })

  await app.register(redis, { url: env['REDIS_URL']! })
  await app.register(health)
  await app.register(session, { secret: env['SESSION_SECRET']!, cookie: { secure: 'auto' } })
  await app.register(cache, { ttl: '1m' })
  await app.register(database, {
    primary: env['DATABASE_URL']!,
    replicas: [env['DATABASE_REPLICA_URL']!],
    secret: env['SESSION_SECRET']!
  })
  await app.register(websocket)
  await app.register(broadcast, { path: false, channels: { notes: { history: { size: 100 } } } })

  app.post<{ Body: { user: string } }>('/login', async (request) => {
    await request.session.login(request.body.user)
    request.session.set('user', request.body.user)
    return { user: request.body.user }
  })

  app.post<{ Body: { text: string } }>('/notes', async (request, reply) => {
    const author = request.session.get('user')
    if (author === undefined) return reply.code(401).send({ error: 'log in first' })
    const { rows } = await request.db.write.query<Note>(
      'INSERT INTO notes (author, text) VALUES ($1, $2) RETURNING id, author, text',
      [author, request.body.text]
    )
    // The write's place in the database's history: who reads because of this news reads a server that has it.
    const token = request.db.token()
    await app.cache.invalidateTags(['notes'], { after: token })
    await app.broadcast.publish('notes', rows[0], { consistency: token })
    return rows[0]
  })

  app.get('/notes', async (request) => {
    const { rows } = await request.db.read.query<Note>(
      'SELECT id, author, text FROM notes ORDER BY id DESC LIMIT 20'
    )
    return rows
  })

  app.get('/newest', async () =>
    app.cache.getOrSet(
      'newest',
      async ({ after }) => {
        const { rows } = await app.db.read
          .after(after)
          .query<Note>('SELECT id, author, text FROM notes ORDER BY id DESC LIMIT 3')
        return rows
      },
      { tags: ['notes'] }
    )
  )

  app.get('/live', { websocket: true }, (socket, request) => {
    app.broadcast.attach(socket, request, { channels: ['notes'] })
  })

  return app
}
