/* After a write no spelling of its URL is answered with what was stored before. */
import { until } from '@flotilla/testbed'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { flotillaCache } from '../src/index.js'
import { gate } from './support/app.js'

interface Sent {
  status: number
  body: string
}

async function start(
  t: Test,
  options: FastifyServerOptions,
  routes: (app: FastifyInstance) => void
): Promise<(method: string, path: string, headers?: Record<string, string>) => Promise<Sent>> {
  const app = Fastify({ ...options, forceCloseConnections: true }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(flotillaCache, { redis: false })
  routes(app)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  // As it is written here: inject() and fetch() would change the spelling.
  return async (method, path, headers = { host: 'a.example' }) => {
    const sent = request({ host: '127.0.0.1', port, method, path, headers, agent: false })
    sent.end()
    const [response] = (await once(sent, 'response')) as [IncomingMessage]
    return { status: response.statusCode!, body: await text(response) }
  }
}

const cache = { ttl: '1m' }

t.test('a write to any spelling of a URL invalidates all of them', async (t) => {
  const cases: [string, FastifyServerOptions, string, [string, Record<string, string>?][]][] = [
    [
      'percent-encoding',
      {},
      '/items/:id',
      [
        ['/items/Aé'.replace('é', '%C3%A9')],
        ['/items/%41%c3%a9'],
        ['/%69tems/A%C3%A9?page=2'],
        ['/items/A%c3%a9#x']
      ]
    ],
    ['reserved characters', {}, '/items/:id', [['/items/a:b@c'], ['/items/a%3Ab%40c'], ['/items/a%3ab%40c']]],
    ['a route that is not ASCII', {}, '/café/:id', [['/caf%C3%A9/1'], ['/caf%c3%a9/1'], ['/%63af%C3%A9/1']]],
    ['an optional parameter', {}, '/items/:id?', [['/items'], ['/%69tems']]],
    [
      'letter case',
      { routerOptions: { caseSensitive: false } },
      '/Items/:id',
      [['/items/a'], ['/ITEMS/a'], ['/Items/A']]
    ],
    [
      'duplicate slashes',
      { routerOptions: { ignoreDuplicateSlashes: true } },
      '/items/:id',
      [['/items/1'], ['//items///1'], ['/items//1']]
    ],
    [
      'a trailing slash',
      { routerOptions: { ignoreTrailingSlash: true } },
      '/items/:id/',
      [['/items/1'], ['/items/1/'], ['/items/1/?a']]
    ],
    [
      'semicolons',
      { routerOptions: { useSemicolonDelimiter: true } } as FastifyServerOptions,
      '/items/:id',
      [['/items/1'], ['/items/1;a=1'], ['/items/1?a=1']]
    ],
    [
      'the absolute form',
      {},
      '/items/:id',
      [['/items/1'], ['http://a.example/items/1'], ['http://A.example:80/items/%31']]
    ],
    [
      'the host',
      {},
      '/items/:id',
      [
        ['/items/1', { host: 'a.example' }],
        ['/items/1', { host: 'A.Example' }],
        ['/items/1', { host: 'a.example:80' }],
        ['/items/1', { host: 'a.example.' }]
      ]
    ],
    [
      'a URL that is rewritten',
      { rewriteUrl: ({ url }) => url!.replace('/public/', '/items/') },
      '/items/:id',
      [['/public/1'], ['/items/1'], ['/%70ublic/1'.replace('%70', 'p')]]
    ]
  ]
  for (const [name, options, url, spellings] of cases) {
    let version = 0
    const send = await start(t, options, (app) => {
      app.get(url, { config: { cache } }, () => `version ${version}`)
      app.put(url, () => `version ${++version}`)
    })
    for (const [written, host] of spellings) {
      const other = { host: 'b.example' }
      t.equal((await send('GET', spellings[0]![0], other)).status, 200)
      for (const [read, from] of spellings) {
        t.equal((await send('GET', read, from)).body, `version ${version}`, `${name}: ${read} is stored`)
      }
      t.equal((await send('PUT', written, host)).body, `version ${version}`)
      for (const [read, from] of spellings) {
        t.equal(
          (await send('GET', read, from)).body,
          `version ${version}`,
          `${name}: ${read} after ${written}`
        )
      }
    }
  }
})

t.test('Location names a URL in any spelling', async (t) => {
  for (const location of [
    '/caf%c3%a9/1',
    'http://a.example:80/caf%C3%A9/%31',
    '//A.EXAMPLE/café/1#x',
    '../café/1'
  ]) {
    let version = 0
    const send = await start(t, {}, (app) => {
      app.get('/café/:id', { config: { cache } }, () => `version ${version}`)
      app.post('/orders/', (_request, reply) => {
        version++
        return reply.code(201).header('location', encodeURI(location).replaceAll('%25', '%')).send('made')
      })
    })
    await send('GET', '/caf%C3%A9/1')
    await send('POST', '/orders/')
    t.equal((await send('GET', '/caf%C3%A9/1')).body, 'version 1', location)
  }
})

t.test(
  'a handler that throws after it has written invalidates; one that sends an error does not',
  async (t) => {
    let version = 0
    let runs = 0
    const send = await start(t, {}, (app) => {
      app.addHttpMethod('PROPFIND')
      app.get('/x', { config: { cache } }, () => `version ${version} of run ${++runs}`)
      app.put('/x', async () => {
        version++
        throw new Error('after the write')
      })
      app.patch('/x', (_request, reply) => {
        version++
        void reply.send(new Error('after the write'))
      })
      app.delete('/x', () => {
        version++
        throw Object.assign(new Error('after the write'), { statusCode: 503 })
      })
      app.post(
        '/x',
        {
          preHandler: async () => {
            throw new Error('too busy')
          }
        },
        () => 'not reached'
      )
      app.route({
        method: 'PROPFIND',
        url: '/x',
        handler: (_request, reply) => reply.code(500).send('refused')
      })
    })
    for (const method of ['PUT', 'PATCH', 'DELETE']) {
      await send('GET', '/x')
      t.ok((await send(method, '/x')).status >= 500)
      t.match((await send('GET', '/x')).body, `version ${version} `, method)
    }
    const { body } = await send('GET', '/x')
    for (const method of ['POST', 'PROPFIND']) t.equal((await send(method, '/x')).status, 500, method)
    t.equal((await send('GET', '/x')).body, body)
  }
)

t.test('a handler that writes after its time is up', async (t) => {
  let version = 0
  const go = gate()
  const send = await start(t, { handlerTimeout: 50 }, (app) => {
    app.get('/x', { config: { cache } }, () => `version ${version}`)
    app.put('/x', async () => {
      await go.passed
      version++
      return 'too late'
    })
  })
  t.equal((await send('PUT', '/x')).status, 503)
  t.equal((await send('GET', '/x')).body, 'version 0')
  go.open()
  await until(async () => (await send('GET', '/x')).body === 'version 1', { message: 'it is invalidated' })
})

t.test('a hijacked reply invalidates', async (t) => {
  let version = 0
  const send = await start(t, {}, (app) => {
    app.get('/x', { config: { cache } }, () => `version ${version}`)
    app.get('/other', { config: { cache } }, () => `version ${version}`)
    app.put('/x', (_request, reply) => {
      reply.hijack()
      version++
      reply.raw.statusCode = 201
      reply.raw.setHeader('content-location', '/other').end('done')
    })
  })
  for (const url of ['/x', '/other']) {
    await send('GET', url)
    t.equal((await send('PUT', '/x')).status, 201)
    const wanted = `version ${version}`
    await until(async () => (await send('GET', url)).body === wanted, { message: `${url} is invalidated` })
  }
})

t.test('of routes that were declared before the plugin, too', async (t) => {
  const app = Fastify()
  t.teardown(() => app.close())
  let version = 0
  void app.register(flotillaCache, { redis: false })
  app.put('/x/:id', async () => {
    version++
    throw new Error('after the write')
  })
  void app.register(async (child) => {
    child.get('/x/:id', { config: { cache } }, () => `version ${version}`)
  })
  await app.inject('/x/1')
  t.equal((await app.inject({ method: 'PUT', url: '/x/%31' })).statusCode, 500)
  t.equal((await app.inject('/x/1')).body, 'version 1')
})
