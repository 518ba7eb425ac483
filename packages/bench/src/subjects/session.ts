import { randomBytes } from 'node:crypto'
import cookie from '@fastify/cookie'
import fastifySession from '@fastify/session'
import { flotillaRedis } from '@flotilla/redis'
import { flotillaSession, type SessionOptions } from '@flotilla/session'
import mgcreaSession from '@mgcrea/fastify-session'
import { RedisStore as MgcreaStore } from '@mgcrea/fastify-session-redis-store'
import { RedisStore } from 'connect-redis'
import fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import { Redis } from 'ioredis'
import { serveSubjects, type ServedSubject, type ServeSubject } from '../harness/subject.js'

const SECRET = 'a secret of at least thirty-two characters'
const TTL = 1_800

/** What a visitor's session holds: who it is, a token, a number, and a cart that makes up the rest of its size. */
function contentOf(n: number, size: number): Record<string, unknown> {
  const items: unknown[] = []
  for (let left = size - 100; left > 0; left -= 50)
    items.push({ article: 4_711 + left, amount: 1, note: 'gift wrapped' })
  return { n, user: { name: `visitor ${n}`, roles: ['reader'] }, token: 'x'.repeat(24), cart: { items } }
}

/** The same session, read and written the way each plugin's README does it. */
interface Visitor {
  fill(request: FastifyRequest, content: Record<string, unknown>): void
  read(request: FastifyRequest): number | undefined
  write(request: FastifyRequest, value: number): void
}

interface Login {
  Params: { n: string }
  Querystring: { size?: string }
}

function addRoutes(app: FastifyInstance, visitor: Visitor): void {
  app.post<Login>('/login/:n', async (request) => {
    visitor.fill(request, contentOf(Number(request.params.n), Number(request.query.size ?? 100)))
    return { ok: true }
  })
  app.get('/read', async (request, reply) => {
    const n = visitor.read(request)
    return n === undefined ? reply.code(401).send({ error: 'no session' }) : { n }
  })
  let written = 0
  app.get('/write', async (request, reply) => {
    if (visitor.read(request) === undefined) return reply.code(401).send({ error: 'no session' })
    visitor.write(request, ++written)
    return { ok: true }
  })
  app.get('/anonymous', async () => ({ ok: true }))
}

/** Plugins that keep data as properties of the session. */
interface Properties {
  session: Record<string, unknown>
}

/** Plugins that keep data behind `get` and `set`. */
interface GetSet {
  session: { get(key: string): unknown; set(key: string, value: unknown): void }
}

const byGetSet: Visitor = {
  fill(request, content) {
    const { session } = request as unknown as GetSet
    for (const [key, value] of Object.entries(content)) session.set(key, value)
  },
  read: (request) => (request as unknown as GetSet).session.get('n') as number | undefined,
  write: (request, value) => (request as unknown as GetSet).session.set('written', value)
}

const flotilla =
  (options: Partial<SessionOptions>): ServeSubject =>
  ({ env }) => {
    const app = fastify()
    app.register(flotillaRedis, { url: env['REDIS_URL']! })
    app.register(flotillaSession, { secret: SECRET, cookie: { secure: 'auto' }, maxSize: '1mb', ...options })
    app.register(async (scope) => addRoutes(scope, byGetSet))
    return { app }
  }

/** Registered the way its README says, with one auto-pipelining client as ours has. */
function served(app: FastifyInstance, redis: Redis, visitor: Visitor): ServedSubject {
  app.register(async (scope) => addRoutes(scope, visitor))
  return { app, close: async () => void (await redis.quit()) }
}

serveSubjects({
  flotilla: flotilla({}),
  'flotilla-local': flotilla({ local: { maxAge: '5s' } }),

  /** A route that does nothing. */
  bare() {
    const app = fastify()
    app.post('/login/:n', async () => ({ ok: true }))
    app.get('/read', async () => ({ n: 0 }))
    app.get('/write', async () => ({ ok: true }))
    app.get('/anonymous', async () => ({ ok: true }))
    return { app }
  },

  /** The least that can do the job: parse and unsign the cookie, one GETEX, JSON.parse; a write is one SET more. */
  floor({ env }) {
    const redis = new Redis(env['REDIS_URL']!, { enableAutoPipelining: true })
    const app = fastify()
    app.register(cookie, { secret: SECRET })
    const load = async (request: FastifyRequest): Promise<[string, Record<string, unknown>] | undefined> => {
      const { valid, value } = request.unsignCookie(request.cookies['sid'] ?? '')
      const stored = valid ? await redis.getex(`floor:${value}`, 'EX', TTL) : null
      return stored === null ? undefined : [value!, JSON.parse(stored) as Record<string, unknown>]
    }
    app.post<Login>('/login/:n', async (request, reply) => {
      const id = randomBytes(24).toString('base64url')
      const content = contentOf(Number(request.params.n), Number(request.query.size ?? 100))
      await redis.set(`floor:${id}`, JSON.stringify(content), 'EX', TTL)
      reply.setCookie('sid', id, { path: '/', httpOnly: true, signed: true })
      return { ok: true }
    })
    app.get('/read', async (request, reply) => {
      const loaded = await load(request)
      return loaded ? { n: loaded[1]['n'] } : reply.code(401).send({ error: 'no session' })
    })
    let written = 0
    app.get('/write', async (request, reply) => {
      const loaded = await load(request)
      if (!loaded) return reply.code(401).send({ error: 'no session' })
      const [id, session] = loaded
      session['written'] = ++written
      await redis.set(`floor:${id}`, JSON.stringify(session), 'EX', TTL)
      return { ok: true }
    })
    app.get('/anonymous', async () => ({ ok: true }))
    return { app, close: async () => void (await redis.quit()) }
  },

  'fastify-session'({ env }) {
    const redis = new Redis(env['REDIS_URL']!, { enableAutoPipelining: true })
    const app = fastify()
    app.register(cookie)
    app.register(fastifySession, {
      secret: SECRET,
      cookie: { secure: false, maxAge: TTL * 1_000 },
      saveUninitialized: false,
      store: new RedisStore({ client: redis, prefix: 'fastify-session:', ttl: TTL })
    })
    return served(app, redis, {
      fill(request, content) {
        Object.assign((request as unknown as Properties).session, content)
      },
      read: (request) => (request as unknown as Properties).session['n'] as number | undefined,
      write(request, value) {
        ;(request as unknown as Properties).session['written'] = value
      }
    })
  },

  'mgcrea-fastify-session'({ env }) {
    const redis = new Redis(env['REDIS_URL']!, { enableAutoPipelining: true })
    const app = fastify()
    app.register(cookie)
    app.register(mgcreaSession, {
      secret: SECRET,
      store: new MgcreaStore({ client: redis, ttl: TTL, prefix: 'mgcrea-session:' }),
      cookie: { maxAge: TTL, secure: false }
    })
    return served(app, redis, byGetSet)
  }
})
