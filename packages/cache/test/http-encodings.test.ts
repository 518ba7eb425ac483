/* Plugins that encode bodies and name them: one strong ETag stands for one representation. */
import fastifyCompress from '@fastify/compress'
import fastifyEtag from '@fastify/etag'
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { flotillaCache } from '../src/index.js'

const TEXT = 'a body that is worth to be compressed '.repeat(100)
const config = { cache: { ttl: '1m' } }

const plugins = {
  cache: (app: FastifyInstance) => app.register(flotillaCache, { redis: false }),
  compress: (app: FastifyInstance) => app.register(fastifyCompress, { threshold: 100 }),
  etag: (app: FastifyInstance) => app.register(fastifyEtag)
}

async function start(t: Test, order: (keyof typeof plugins)[]): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  for (const name of order) await plugins[name](app)
  const text = (reply: FastifyReply): FastifyReply => reply.type('text/plain')
  app.get('/text', { config }, (_request, reply) => text(reply).send(TEXT))
  app.get('/stream', { config }, (_request, reply) => text(reply).send(Readable.from([TEXT])))
  app.get('/named', { config }, (_request, reply) => text(reply).header('etag', '"v1"').send(TEXT))
  return app
}

t.test('one strong ETag a representation, whatever is registered before the cache', async (t) => {
  const orders: (keyof typeof plugins)[][] = [
    ['compress', 'cache'],
    ['compress', 'etag', 'cache'],
    ['etag', 'compress', 'cache'],
    ['compress', 'cache', 'etag'],
    ['etag', 'cache'],
    ['cache', 'etag']
  ]
  for (const order of orders) {
    for (const first of ['identity', 'gzip']) {
      const app = await start(t, order)
      for (const url of ['/text', '/stream', '/named']) {
        const bytesOf = new Map<string, string>()
        let hits = 0
        for (const encoding of [first, 'identity', 'gzip', 'br', 'gzip', 'identity', 'br']) {
          const headers = { 'accept-encoding': encoding }
          const response = await app.inject({ url, headers })
          const label = `${order.join(', ')}: ${url}, ${encoding} after ${first}`
          t.equal(response.statusCode, 200, label)
          const { etag, 'content-encoding': sent = 'identity' } = response.headers
          t.equal(sent, order.includes('compress') ? encoding : 'identity', label)
          if (/hit/.test(String(response.headers['cache-status']))) hits++
          if (etag === undefined || etag.startsWith('W/')) continue
          const bytes = response.rawPayload.toString('base64')
          t.equal(bytesOf.get(etag) ?? bytes, bytes, `${label}: ${etag} stands for the same bytes`)
          bytesOf.set(etag, bytes)
          const again = await app.inject({ url, headers: { ...headers, 'if-none-match': etag } })
          t.equal(again.statusCode, 304, `${label}: it is known again`)
        }
        t.ok(hits >= 3, `${order.join(', ')}: ${url} is answered from the cache`)
      }
    }
  }
})

t.test('compression after the cache is refused at ready, which names the order', async (t) => {
  const app = await start(t, ['cache', 'compress'])
  await t.rejects(async () => app.ready(), {
    code: 'FLOTILLA_CACHE_ERR_OPTIONS',
    message: /'\/text'.*register @fastify\/compress before @flotilla\/cache/
  })
  const other = Fastify()
  t.teardown(() => other.close())
  await plugins.cache(other)
  await other.register(fastifyCompress, { global: false })
  other.get('/x', { config }, () => 'x')
  other.get('/y', { config, compress: false }, () => 'y')
  await other.ready()
  t.equal((await other.inject('/x')).body, 'x')
})
