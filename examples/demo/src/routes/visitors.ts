import type { FastifyInstance } from 'fastify'

declare module '@flotilla/session' {
  interface SessionData {
    /** What the visitor wants to be called. */
    name: string
    /** The instance that made the session. */
    madeOn: string
    /** Pages seen, counted by whichever instance answered. */
    visits: number
  }
}

const LOGIN = {
  body: {
    type: 'object',
    required: ['name'],
    additionalProperties: false,
    properties: { name: { type: 'string', minLength: 1, maxLength: 40, pattern: '\\S' } }
  }
} as const

/** Who is here: log in and out, this session, and the visitor's other devices. */
export async function visitors(app: FastifyInstance): Promise<void> {
  app.post<{ Body: { name: string } }>('/api/login', { schema: LOGIN }, async (request) => {
    const name = request.body.name.trim()
    await request.session.login(name.toLowerCase(), { label: request.headers['user-agent'] ?? 'unknown' })
    request.session.set('name', name)
    request.session.set('madeOn', app.health.instance)
    return { name }
  })

  app.post('/api/logout', async (request, reply) => {
    await request.session.logout()
    return reply.code(204).send()
  })

  app.get('/api/me', async (request) => {
    const { session } = request
    if (session.userId === undefined) return { name: null, answeredBy: app.health.instance }
    const visits = await session.update('visits', (count = 0) => count + 1)
    return {
      name: session.get('name'),
      madeOn: session.get('madeOn'),
      visits,
      answeredBy: app.health.instance,
      ref: session.ref,
      devices: await app.sessions.list(session.userId)
    }
  })

  app.delete<{ Params: { ref: string } }>('/api/sessions/:ref', async (request, reply) => {
    const { userId } = request.session
    if (userId === undefined) return reply.code(401).send({ error: 'log in first' })
    await app.sessions.revoke(userId, request.params.ref)
    return reply.code(204).send()
  })

  app.delete('/api/sessions', async (request, reply) => {
    const { userId, ref } = request.session
    if (userId === undefined) return reply.code(401).send({ error: 'log in first' })
    await app.sessions.revokeAll(userId, { except: ref })
    return reply.code(204).send()
  })
}
