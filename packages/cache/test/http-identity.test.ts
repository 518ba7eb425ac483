/* Plugins of others know who sent a request: what they know is never in what another visitor gets. */
import fastifyCookie from '@fastify/cookie'
import fastifyHelmet from '@fastify/helmet'
import fastifyJwt from '@fastify/jwt'
import fastifySecureSession from '@fastify/secure-session'
import fastifySession from '@fastify/session'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { OutgoingHttpHeaders } from 'node:http'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { flotillaCache, type RouteCacheOptions } from '../src/index.js'

const SECRET = 'a secret of more than thirty-two characters'

interface Visitor {
  name: string
  headers: Record<string, string>
}

type NameOf = (request: FastifyRequest) => string | undefined | Promise<string | undefined>
type Answer = (request: FastifyRequest, reply: FastifyReply) => unknown

declare module '@fastify/secure-session' {
  interface SessionData {
    name: string
  }
}
declare module 'fastify' {
  interface Session {
    name?: string
  }
}

/** How an app knows its visitors: what it registers, how one logs in, and how a handler finds out the name. */
interface System {
  register: (app: FastifyInstance) => Promise<void>
  login: (app: FastifyInstance, name: string) => Promise<Visitor>
  nameOf: Record<string, NameOf>
}

const byCookie = async (app: FastifyInstance, name: string): Promise<Visitor> => {
  const response = await app.inject({ url: `/login/${name}` })
  const cookie = response.cookies.map((one) => `${one.name}=${encodeURIComponent(one.value)}`).join('; ')
  return { name, headers: { cookie } }
}
const sessionOf = (request: FastifyRequest): { name?: string; get?: (key: 'name') => string | undefined } =>
  (request as unknown as { session: { name?: string } }).session

const systems: Record<string, System> = {
  '@fastify/session': {
    register: async (app) => {
      await app.register(fastifyCookie)
      await app.register(fastifySession, {
        secret: SECRET,
        cookie: { secure: false },
        saveUninitialized: false
      })
      app.get('/login/:name', (request) => {
        sessionOf(request).name = (request.params as { name: string }).name
        return 'in'
      })
    },
    login: byCookie,
    nameOf: { session: (request) => sessionOf(request).name }
  },
  '@fastify/secure-session': {
    register: async (app) => {
      await app.register(fastifySecureSession, { key: Buffer.alloc(32, 7), cookie: { path: '/' } })
      app.get('/login/:name', (request) => {
        ;(request.session as unknown as { set: (key: string, value: string) => void }).set(
          'name',
          (request.params as { name: string }).name
        )
        return 'in'
      })
    },
    login: byCookie,
    nameOf: { session: (request) => sessionOf(request).get!('name') }
  },
  '@fastify/jwt, verified in a hook': {
    register: async (app) => {
      await app.register(fastifyJwt, { secret: SECRET })
      app.addHook('onRequest', async (request) => {
        await request.jwtVerify().catch(() => undefined)
      })
    },
    login: async (app, name) => ({ name, headers: { authorization: `Bearer ${app.jwt.sign({ name })}` } }),
    nameOf: { user: (request) => (request.user as { name?: string } | null)?.name }
  },
  '@fastify/jwt in a cookie, verified by the handler': {
    register: async (app) => {
      await app.register(fastifyCookie)
      await app.register(fastifyJwt, { secret: SECRET, cookie: { cookieName: 'token', signed: false } })
    },
    login: async (app, name) => ({ name, headers: { cookie: `token=${app.jwt.sign({ name })}` } }),
    nameOf: {
      jwtVerify: async (request) => (await request.jwtVerify<{ name: string }>().catch(() => undefined))?.name
    }
  },
  'cookies and headers': {
    register: async (app) => {
      await app.register(fastifyCookie)
    },
    login: async (_app, name) => ({ name, headers: { cookie: `name=${name}`, authorization: name } }),
    nameOf: {
      'request.cookies': (request) => request.cookies['name'],
      'request.headers.cookie': (request) => /name=(\w+)/.exec(request.headers.cookie ?? '')?.[1],
      'request.raw.headers.cookie': (request) => /name=(\w+)/.exec(request.raw.headers.cookie ?? '')?.[1],
      'request.headers.authorization': (request) => request.headers.authorization,
      rawHeaders: ({ raw }) => /authorization\n(\w+)/.exec(raw.rawHeaders.join('\n'))?.[1],
      'a copy of all headers': (request) => ({ ...request.headers }).authorization
    }
  }
}

const answers: Record<string, (nameOf: NameOf) => Answer> = {
  value: (nameOf) => async (request) => `for ${(await nameOf(request)) ?? 'nobody'}`,
  // Says that it may be shared, of a page that may not.
  public: (nameOf) => async (request, reply) => {
    reply.header('cache-control', 'public, max-age=60')
    return { name: `for ${(await nameOf(request)) ?? 'nobody'}` }
  },
  stream: (nameOf) => (request, reply) => {
    async function* body(): AsyncGenerator<string> {
      yield 'for '
      await new Promise((resolve) => setImmediate(resolve))
      yield (await nameOf(request)) ?? 'nobody'
    }
    return reply.type('text/plain').send(Readable.from(body()))
  }
}

async function start(t: Test, system: System, order: 'before' | 'after'): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  if (order === 'after') await app.register(flotillaCache, { redis: false })
  await system.register(app)
  if (order === 'before') await app.register(flotillaCache, { redis: false })
  return app
}

for (const [name, system] of Object.entries(systems)) {
  t.test(name, async (t) => {
    for (const order of ['before', 'after'] as const) {
      const app = await start(t, system, order)
      let shared = 0
      const cache: RouteCacheOptions = { ttl: '1m' }
      app.get('/shared', { config: { cache } }, () => `the same for all ${++shared}`)
      for (const [way, nameOf] of Object.entries(system.nameOf)) {
        for (const [kind, answer] of Object.entries(answers)) {
          app.get(`/${way.replaceAll(/\W+/g, '-')}/${kind}`, { config: { cache } }, answer(nameOf))
        }
      }
      const nobody: Visitor = { name: 'nobody', headers: {} }
      const ada = await system.login(app, 'Ada')
      const bob = await system.login(app, 'Bob')
      for (const way of Object.keys(system.nameOf)) {
        for (const kind of Object.keys(answers)) {
          for (const first of [ada, nobody]) {
            for (const visitor of [first, bob, nobody, ada]) {
              const { headers } = visitor
              const url = `/${way.replaceAll(/\W+/g, '-')}/${kind}?first=${first.name}`
              const { body } = await app.inject({ url, headers })
              const label = `${order}, ${way}, ${kind}: ${visitor.name} after ${first.name}`
              t.match(body, `for ${visitor.name}`, label)
            }
          }
        }
      }
      t.equal((await app.inject('/shared')).body, 'the same for all 1')
      t.equal(
        (await app.inject('/shared')).body,
        'the same for all 1',
        'what depends on no visitor is stored'
      )
      if (ada.headers['authorization'] === undefined) {
        t.equal((await app.inject({ url: '/shared', headers: ada.headers })).body, 'the same for all 1')
      }
    }
  })
}

t.test('shared: true stores what was read about the visitor', async (t) => {
  const app = await start(t, systems['cookies and headers']!, 'before')
  let calls = 0
  app.get('/x', { config: { cache: { ttl: '1m', shared: true } } }, (request) => {
    void request.cookies['theme']
    return `made ${++calls} times`
  })
  for (const cookie of ['name=Ada', 'name=Bob']) {
    t.equal((await app.inject({ url: '/x', headers: { cookie } })).body, 'made 1 times')
  }
})

t.test('further properties of the request that say who sent it', async (t) => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(flotillaCache, { redis: false, http: { identity: ['account'] } })
  app.decorateRequest('account', null)
  app.addHook('onRequest', async (request) => {
    ;(request as unknown as { account: unknown }).account = request.headers['x-name']
  })
  app.get('/x', { config: { cache: { ttl: '1m' } } }, (request) =>
    String((request as unknown as { account: unknown }).account)
  )
  for (const name of ['Ada', 'Bob']) {
    t.equal((await app.inject({ url: '/x', headers: { 'x-name': name } })).body, name)
  }
  const wrong = Fastify()
  t.teardown(() => wrong.close())
  await t.rejects(
    async () => wrong.register(flotillaCache, { redis: false, http: { identity: [7 as never] } }),
    {
      code: 'FLOTILLA_CACHE_ERR_OPTIONS',
      message: /identity/
    }
  )
})

t.test('a warning at ready names the routes beside plugins that know visitors', async (t) => {
  const lines: string[] = []
  const app = Fastify({ logger: { stream: { write: (line: string) => void lines.push(line) } } })
  t.teardown(() => app.close())
  await app.register(flotillaCache, { redis: false })
  app.get('/outside', { config: { cache: {} } }, () => 'x')
  await app.register(async (scope) => {
    await systems['@fastify/session']!.register(scope)
    scope.get('/one', { config: { cache: {} } }, () => 'x')
    scope.get('/two', { config: { cache: { shared: true } } }, () => 'x')
    scope.get('/three', () => 'x')
  })
  await app.ready()
  const warned = lines.filter((line) => line.includes('@fastify/session'))
  t.equal(warned.length, 1)
  t.match(warned[0], /\/one/)
  t.notMatch(warned[0], /\/two|\/three|\/outside/)
  t.match(warned[0], /shared: true/)
})

t.test('a header that a hook sets for one visitor is not in what another gets', async (t) => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(flotillaCache, { redis: false })
  app.addHook('onRequest', async (request, reply) => {
    if (request.headers['x-name'] !== undefined) reply.header('x-user', request.headers['x-name'])
    reply.raw.setHeader('x-raw', String(request.headers['x-name'] ?? 'nobody'))
  })
  app.addHook('onSend', async (request, reply) => {
    if (request.headers['x-name'] !== undefined) reply.header('x-late', request.headers['x-name'])
  })
  app.get('/x', { config: { cache: { ttl: '1m' } } }, (_request, reply) => {
    reply.header('x-from', 'handler')
    return { n: 1 }
  })
  for (const name of ['Ada', 'Bob', undefined, 'Ada']) {
    const response = await app.inject({ url: '/x', headers: name === undefined ? {} : { 'x-name': name } })
    t.equal(response.headers['x-user'], name)
    t.equal(response.headers['x-late'], name)
    t.equal(response.headers['x-raw'], name ?? 'nobody')
    t.equal(response.headers['x-from'], 'handler')
  }
})

t.test('a host that any client may name and the handler believes', async (t) => {
  for (const name of ['x-forwarded-host', 'x-host', 'forwarded', 'x-forwarded-prefix']) {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(flotillaCache, { redis: false })
    const handler: Answer = (request) => `//${String(request.headers[name] ?? 'good')}/`
    app.get('/x', { config: { cache: { ttl: '1m' } } }, handler)
    app.get('/keyed', { config: { cache: { ttl: '1m', vary: [name] } } }, handler)
    for (const url of ['/x', '/keyed']) {
      t.equal((await app.inject({ url, headers: { [name]: 'evil' } })).body, '//evil/')
      t.equal((await app.inject({ url, headers: { [name]: 'else' } })).body, '//else/')
      t.equal((await app.inject(url)).body, '//good/')
    }
    t.match((await app.inject({ url: '/keyed', headers: { [name]: 'evil' } })).headers['cache-status'], /hit/)
  }
})

t.test('what belongs to one exchange: late cookies, trailers, early hints, error pages', async (t) => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(flotillaCache, { redis: false })
  const config = { cache: { ttl: '1m', statuses: [200, 404] } }
  const me = (request: FastifyRequest): string => String(request.headers['x-name'] ?? 'nobody')
  app.get('/raw-cookie', { config }, (request, reply) => {
    reply.raw.setHeader('set-cookie', `sid=${me(request)}`)
    return `for ${me(request)}`
  })
  app.get(
    '/late-cookie',
    { config, onSend: async (request, reply) => void reply.header('set-cookie', me(request)) },
    (request) => `for ${me(request)}`
  )
  app.get('/write-head', { config }, (request, reply) => {
    const writeHead = reply.raw.writeHead.bind(reply.raw)
    // As on-headers does, and with it express-session.
    reply.raw.writeHead = ((status: number, headers: OutgoingHttpHeaders) => {
      reply.raw.setHeader('set-cookie', `sid=${me(request)}`)
      return writeHead(status, headers)
    }) as typeof writeHead
    return 'page'
  })
  app.get('/trailer', { config }, (request, reply) => {
    reply.trailer('x-name', (_reply, _payload, done) => done(null, me(request)))
    return 'page'
  })
  app.get('/hints', { config }, (request, reply) => {
    reply.writeEarlyHints({ link: `</${me(request)}.css>` })
    return 'page'
  })
  app.get('/error', { config }, (request) => {
    throw Object.assign(new Error(`no page for ${me(request)}`), { statusCode: 500 })
  })
  for (const url of ['/raw-cookie', '/late-cookie', '/write-head', '/trailer', '/hints', '/error']) {
    await app.inject({ url, headers: { 'x-name': 'Ada' } })
    const { body, headers, trailers } = await app.inject({ url, headers: { 'x-name': 'Bob' } })
    t.notMatch(JSON.stringify([body, headers, trailers]), 'Ada', url)
  }
})

t.test('what an onSend hook reads about the visitor', async (t) => {
  const hooks: Record<string, (request: FastifyRequest) => string | undefined> = {
    'request.cookies': (request) => request.cookies['name'],
    'request.headers.cookie': (request) => /name=(\w+)/.exec(request.headers.cookie ?? '')?.[1],
    'request.session': (request) => (sessionOf(request).name ?? '') + String(request.cookies['name'])
  }
  for (const [name, nameOf] of Object.entries(hooks)) {
    const app = await start(t, systems['@fastify/session']!, 'after')
    app.get('/other', { config: { cache: { ttl: '1m' } } }, () => 'for all')
    await app.register(async (scope) => {
      scope.addHook('onSend', async (request, _reply, payload) => `${String(payload)} ${nameOf(request)}`)
      scope.get('/x', { config: { cache: { ttl: '1m' } } }, () => 'for')
    })
    for (const visitor of ['Ada', 'Bob', 'Ada']) {
      const headers = { cookie: `name=${visitor}` }
      t.match((await app.inject({ url: '/x', headers })).body, new RegExp(`^for ${visitor}$`), name)
    }
    await app.inject('/other')
    t.match((await app.inject('/other')).headers['cache-status'], /hit/, 'the plugin itself may read')
  }
})

t.test('a page with the nonce of a content security policy is not stored, other content is', async (t) => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fastifyHelmet, { enableCSPNonces: true })
  await app.register(flotillaCache, { redis: false })
  const config = { cache: { ttl: '1m' } }
  app.get('/page', { config }, (_request, reply) =>
    reply.type('text/html').send(`<script nonce="${reply.cspNonce.script}">`)
  )
  app.get('/data', { config }, () => ({ a: 1 }))
  for (let i = 0; i < 3; i++) {
    const { body, headers } = await app.inject('/page')
    t.match(headers['content-security-policy'], /nonce="([^"]+)"/.exec(body)![1]!)
  }
  t.match((await app.inject('/page')).headers['cache-status'], /detail="nonce"/)
  await app.inject('/data')
  t.match((await app.inject('/data')).headers['cache-status'], /hit/)
})
