import type { FastifyInstance } from 'fastify'

export interface Post {
  id: string
  author: string
  body: string
  createdAt: string
}

const POST = {
  body: {
    type: 'object',
    required: ['body'],
    additionalProperties: false,
    properties: {
      body: { type: 'string', minLength: 1, maxLength: 280, pattern: '\\S' },
      // Chosen by the page for each entry: sent again after an answer that did not come, it is still one entry.
      key: { type: 'string', minLength: 16, maxLength: 64 }
    }
  }
} as const

const COLUMNS = 'id::text AS id, author, body, created_at AS "createdAt"'

/** One statement answers both what was read and which server read it. */
const LATEST = `
  SELECT pg_is_in_recovery() AS replica, current_setting('port')::int AS port,
    coalesce((SELECT json_agg(p) FROM (SELECT ${COLUMNS} FROM posts ORDER BY posts.id DESC LIMIT 30) p), '[]') AS posts`

interface Latest {
  replica: boolean
  port: number
  posts: Post[]
}

/** Writing and reading the book. */
export async function guestBook(app: FastifyInstance): Promise<void> {
  app.post<{ Body: { body: string; key?: string } }>(
    '/api/posts',
    { schema: POST },
    async (request, reply) => {
      const author = request.session.get('name')
      if (author === undefined) return reply.code(401).send({ error: 'log in first' })
      const { rows } = await request.db.write.query<Post>(
        `INSERT INTO posts (author, body, key) VALUES ($1, $2, $3)
        ON CONFLICT (author, key) DO UPDATE SET key = excluded.key RETURNING ${COLUMNS}`,
        [author, request.body.body.trim(), request.body.key]
      )
      const post = rows[0]!
      // The write's place in the database's history travels with the news of it, so that a page that
      // refetches because of it reads a server that has it.
      const token = request.db.token()
      await app.cache.invalidateTags(['posts'], { after: token })
      await app.broadcast.publish(
        'guest-book',
        { ...post, writtenBy: app.health.instance },
        // A client that tries again after this failed sends the news that is missing, and none twice.
        { consistency: token, idempotencyKey: `post-${post.id}` }
      )
      return reply.code(201).send({ ...post, token })
    }
  )

  // Without a session, so that the book can be read while Redis is away.
  app.get<{ Querystring: { after?: string } }>(
    '/api/posts',
    { config: { session: false } },
    async (request) => {
      const { after } = request.query
      const { rows } = after
        ? await app.db.read.after(after).query<Latest>(LATEST)
        : await request.db.read.query<Latest>(LATEST)
      const { replica, port, posts } = rows[0]!
      return {
        posts,
        database: { role: replica ? 'replica' : 'primary', port },
        answeredBy: app.health.instance
      }
    }
  )
}
