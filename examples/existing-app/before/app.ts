import cookie from '@fastify/cookie'
import session from '@fastify/session'
import websocket from '@fastify/websocket'
import fastify from 'fastify'
import { Pool } from 'pg'
import type { WebSocket } from 'ws'

declare module 'fastify' {
  interface Session {
    user?: string
  }
}

interface Note {
  id: number
  author: string
  text: string
}

/** A notice board, as one would write it for one process: every piece of state lives in memory. */
export async function buildApp(env = process.env) {
  const app = fastify({ trustProxy: true })
  const pool = new Pool({ connectionString: env['DATABASE_URL'] })
  const sockets = new Set<WebSocket>()
  let newest: { notes: Note[]; until: number } | undefined

  await app.register(cookie)
  await app.register(session, { secret: env['SESSION_SECRET']!, cookie: { secure: 'auto' } })
  await app.register(websocket)

  app.post<{ Body: { user: string } }>('/login', async (request) => {
    await request.session.regenerate()
    request.session.user = request.body.user
    return { user: request.session.user }
  })

  app.post<{ Body: { text: string } }>('/notes', async (request, reply) => {
    const author = request.session.user
    if (author === undefined) return reply.code(401).send({ error: 'log in first' })
    const { rows } = await pool.query<Note>(
      'INSERT INTO notes (author, text) VALUES ($1, $2) RETURNING id, author, text',
      [author, request.body.text]
    )
    newest = undefined
    for (const socket of sockets) socket.send(JSON.stringify(rows[0]))
    return rows[0]
  })

  app.get('/notes', async () => {
    const { rows } = await pool.query<Note>('SELECT id, author, text FROM notes ORDER BY id DESC LIMIT 20')
    return rows
  })

  app.get('/newest', async () => {
    if (newest === undefined || newest.until < Date.now()) {
      const { rows } = await pool.query<Note>('SELECT id, author, text FROM notes ORDER BY id DESC LIMIT 3')
      newest = { notes: rows, until: Date.now() + 60_000 }
    }
    return newest.notes
  })

  app.get('/live', { websocket: true }, (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })

  app.get('/health', async () => ({ status: 'healthy' }))

  app.addHook('onClose', () => pool.end())
  return app
}
