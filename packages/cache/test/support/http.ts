import { markPersonal } from '@flotilla/core'
import Fastify, {
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type LightMyRequestResponse
} from 'fastify'
import type { Test } from 'tap'
import { flotillaCache, type CacheOptions, type RouteCacheOptions } from '../../src/index.js'

export type Handler = (request: FastifyRequest, reply: FastifyReply) => unknown

export interface Served {
  app: FastifyInstance
  /** How often the handler ran. */
  calls: () => number
  get: (headers?: Record<string, string>, url?: string) => Promise<LightMyRequestResponse>
}

/** An app with one cached route `/x`, one hook of each kind, and routes that change things. */
export async function serve(
  t: Pick<Test, 'teardown'>,
  cache: RouteCacheOptions,
  handler: Handler,
  options: CacheOptions = {},
  { routes, ...server }: { trustProxy?: boolean; routes?: (app: FastifyInstance) => void } = {}
): Promise<Served> {
  const app = Fastify(server)
  t.teardown(() => app.close())
  await app.register(flotillaCache, { redis: false, ...options })
  app.addHook('onRequest', async (request, reply) => {
    const id = request.headers['x-id']
    if (id !== undefined) reply.header('x-id', id)
  })
  app.addHook('preHandler', async (request) => {
    // As a session that is read, wherever that happens.
    if (request.headers['x-session'] === 'before') markPersonal(request)
  })
  let calls = 0
  app.get('/x', { config: { cache } }, async (request, reply) => {
    calls++
    if (request.headers['x-session'] === 'handler') markPersonal(request)
    const result = await handler(request, reply)
    return result === reply || reply.sent ? reply : result
  })
  app.post('/x', () => 'done')
  app.post('/other', (_request, reply) => reply.code(201).header('location', '/x').send('done'))
  app.post('/failing', (_request, reply) => reply.code(400).header('location', '/x').send('no'))
  routes?.(app)
  await app.ready()
  return {
    app,
    calls: () => calls,
    get: (headers = {}, url = '/x') => app.inject({ method: 'GET', url, headers })
  }
}

/** Ends this turn of the event loop: within one the cache's clock stands still, and injected requests need not end it. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
