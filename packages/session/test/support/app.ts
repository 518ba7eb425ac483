import { flotillaRedis, type RedisPluginOptions } from '@flotilla/redis'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { flotillaSession, type SessionOptions } from '../../src/index.js'

declare module '../../src/index.js' {
  interface SessionData {
    [key: string]: unknown
    count: number
    cart: { items: string[] }
  }
}

export const SECRET = 'a secret of more than thirty-two bytes for tests'

export interface AppSettings {
  url: string
  session?: Partial<SessionOptions>
  redis?: Partial<RedisPluginOptions>
  fastify?: FastifyServerOptions
  /** Before the routes are added: Fastify gives them the error handler and hooks of that moment. */
  prepare?: (app: FastifyInstance) => void
}

/** An app with a route for each thing a session can do. */
export async function buildApp({
  url,
  session,
  redis,
  fastify,
  prepare
}: AppSettings): Promise<FastifyInstance> {
  const app = Fastify({ forceCloseConnections: true, ...fastify })
  // Patient by default: what is tested elsewhere than in outages is not how fast this machine is.
  await app.register(flotillaRedis, { url, commandTimeout: '10s', ...redis } as RedisPluginOptions)
  await app.register(flotillaSession, { secret: SECRET, cookie: { secure: 'auto' }, ...session })
  prepare?.(app)
  addRoutes(app)
  return app
}

export function addRoutes(app: FastifyInstance): void {
  app.get('/none', async () => 'nothing')
  app.get('/off', { config: { session: false } }, async (request) => ({ session: typeof request.session }))
  app.get('/lazy', { config: { session: 'lazy' } }, async () => 'nothing')
  app.get('/lazy/load', { config: { session: 'lazy' } }, async ({ session }) => {
    await session.load()
    return session.data
  })
  app.get('/lazy/unloaded', { config: { session: 'lazy' } }, async ({ session }) => session.get('count'))

  app.get('/data', async ({ session }) => session.data)
  app.get<{ Params: { key: string } }>('/get/:key', async ({ session, params }) => ({
    value: session.get(params.key) ?? null
  }))
  app.post<{ Body: Record<string, unknown> }>('/set', async ({ session, body }) => {
    for (const [key, value] of Object.entries(body)) session.set(key, value)
    return { ref: session.ref }
  })
  app.post<{ Body: { items: string[] } }>('/push', async ({ session, body }) => {
    session.data.cart ??= { items: [] }
    session.data.cart.items.push(...body.items)
    return session.data.cart
  })
  app.post<{ Params: { key: string } }>('/update/:key', async ({ session, params }) => ({
    value: await session.update(params.key as 'count', (n = 0) => n + 1)
  }))
  app.get('/me', async ({ session }) => ({
    userId: session.userId ?? null,
    ref: session.ref,
    isNew: session.isNew,
    readOnly: session.readOnly,
    createdAt: session.createdAt,
    expiresAt: session.expiresAt
  }))
  app.post<{ Body: { userId: string; label?: string } }>(
    '/login',
    async ({ session, body: { userId, label } }) => {
      await session.login(userId, label === undefined ? {} : { label })
      return { ref: session.ref, userId: session.userId }
    }
  )
  app.post('/logout', async ({ session }) => {
    await session.logout()
    return { userId: session.userId ?? null }
  })
  app.post('/destroy', async ({ session }) => session.destroy().then(() => ({ destroyed: true })))
  app.post<{ Body: { keep?: string[] } }>('/regenerate', async ({ session, body }) => {
    await session.regenerate(body.keep)
    return session.data
  })
  app.post('/renew', async ({ session }) => session.renew().then(() => ({ ref: session.ref })))
  app.get('/sessions', async ({ session }) => app.sessions.list(session.userId!))
  app.post<{ Body: { ref: string } }>('/revoke', async ({ session, body }) => ({
    revoked: await app.sessions.revoke(session.userId!, body.ref)
  }))
  app.post<{ Body: { all?: boolean } }>('/revoke-all', async ({ session, body }) => ({
    revoked: await app.sessions.revokeAll(session.userId!, body.all ? {} : { except: session.ref })
  }))
}

/** Runs `fault` whenever the app is about to send one of these scripts. */
export function beforeScript(
  app: FastifyInstance,
  shas: readonly string[],
  fault: () => Promise<void> | void
): void {
  const client = app.redis as unknown as { evalsha(sha: string, ...rest: unknown[]): Promise<unknown> }
  const evalsha = client.evalsha.bind(client)
  client.evalsha = async (sha, ...rest) => {
    if (shas.includes(sha)) await fault()
    return await evalsha(sha, ...rest)
  }
}
