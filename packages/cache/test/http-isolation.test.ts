/* One visitor's bytes never reach another, and one visitor never holds up the others. */
import { markPersonal } from '@flotilla/core'
import { until } from '@flotilla/testbed'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { once } from 'node:events'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { flotillaCache } from '../src/index.js'
import { gate } from './support/app.js'
import { serve } from './support/http.js'

const hit = /^flotilla; hit/

async function cached(t: Test, options: FastifyServerOptions = {}): Promise<FastifyInstance> {
  const app = Fastify(options) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(flotillaCache, { redis: false })
  return app
}

t.test('routes that differ in a constraint have no response in common', async (t) => {
  const app = await cached(t, {
    routerOptions: {
      constraints: {
        tenant: {
          name: 'tenant',
          storage: () => {
            const routes = new Map<unknown, never>()
            return {
              get: (tenant: unknown) => routes.get(tenant) ?? null,
              set: (tenant: unknown, route: never) => void routes.set(tenant, route)
            }
          },
          deriveConstraint: (request: { headers: Record<string, unknown> }) => request.headers['x-tenant'],
          validate: () => true
        }
      }
    }
  } as unknown as FastifyServerOptions)
  const config = { cache: { ttl: '1m' } }
  let n = 0
  const constraints: [Record<string, unknown>, Record<string, string>][] = [
    [{}, {}],
    [{ version: '1.2.0' }, { 'accept-version': '1.x' }],
    [{ version: '2.0.0' }, { 'accept-version': '2.x' }],
    [{ tenant: 'a' }, { 'x-tenant': 'a' }],
    [{ tenant: 'b' }, { 'x-tenant': 'b' }],
    [
      { tenant: 'b', version: '2.0.0' },
      { 'x-tenant': 'b', 'accept-version': '2.x' }
    ],
    [{ host: /^a\./ }, { host: 'a.example' }],
    [{ host: 'b.example' }, { host: 'b.example' }]
  ]
  for (const [constraint] of constraints) {
    app.route({
      method: 'GET',
      url: '/x',
      constraints: constraint,
      config,
      handler: () => `${JSON.stringify(constraint)} ${++n}`
    })
    app.route({ method: 'PUT', url: '/x', constraints: constraint, handler: () => 'done' })
  }
  const bodies = async (): Promise<string[]> => {
    const all: string[] = []
    for (const [constraint, headers] of constraints) {
      const { body } = await app.inject({ url: '/x', headers })
      t.ok(body.startsWith(JSON.stringify(constraint)), `${body} for ${JSON.stringify(headers)}`)
      all.push(body)
    }
    return all
  }
  const first = await bodies()
  t.same(await bodies(), first, 'each is stored')
  for (const [i, [, headers]] of constraints.entries()) {
    const before = await bodies()
    await app.inject({ method: 'PUT', url: '/x', headers })
    const after = await bodies()
    t.not(after[i], before[i], `a write with ${JSON.stringify(headers)} invalidates`)
  }
})

t.test('a client that reads nothing holds up no other, and is itself served whole', async (t) => {
  const body = 'x'.repeat(600_000)
  const { app, calls, get } = await serve(t, { ttl: '1m' }, (_request, reply) =>
    reply.type('text/plain').send(Readable.from(chunksOf(body)))
  )
  const slow = await stuckClient(t, app)
  await until(() => calls() === 1, { message: 'its handler runs' })
  t.equal((await get()).body, body)
  t.equal(calls(), 1)
  t.equal((await received(slow)).length, body.length)
})

t.test(
  'a client that reads nothing of an oversized body holds up no other, nor is memory filled',
  async (t) => {
    let made = 0
    const { app, calls, get } = await serve(t, { ttl: '1m', maxBody: '100kb' }, (request, reply) => {
      async function* endless(): AsyncGenerator<string> {
        for (; made < 100_000; made++) {
          yield 'x'.repeat(10_000)
          await new Promise((resolve) => setImmediate(resolve))
        }
      }
      if (request.headers['x-slow']) return reply.type('text/plain').send(Readable.from(endless()))
      return reply.type('text/plain').send('x'.repeat(200_000))
    })
    await stuckClient(t, app, 'x-slow: 1')
    await until(() => calls() === 1, { message: 'its handler runs' })
    t.equal((await get()).body.length, 200_000)
    t.ok(made < 50_000, `${made} chunks were made for a client that reads none`)
  }
)

t.test('a client that goes away in the middle of a body costs no other a run of the handler', async (t) => {
  const go = gate()
  const { app, calls, get } = await serve(t, { ttl: '1m' }, (_request, reply) => {
    async function* body(): AsyncGenerator<string> {
      yield 'first '
      await go.passed
      yield 'second'
    }
    return reply.type('text/plain').send(Readable.from(body()))
  })
  const gone = await stuckClient(t, app)
  gone.resume()
  await once(gone, 'data')
  const waiting = get()
  gone.destroy()
  await until(async () => (await connections(app)) === 0, { message: 'it has gone' })
  go.open()
  t.equal((await waiting).body, 'first second')
  t.equal(calls(), 1)
})

t.test('a session that is read while the body is made', async (t) => {
  for (const when of ['first', 'last']) {
    const { calls, get } = await serve(t, { ttl: '1m' }, (request, reply) => {
      async function* body(): AsyncGenerator<string> {
        if (when === 'first') markPersonal(request)
        yield 'for '
        await new Promise((resolve) => setImmediate(resolve))
        markPersonal(request)
        yield String(request.headers['x-user'])
      }
      return reply.type('text/plain').send(Readable.from(body()))
    })
    const both = await Promise.all([get({ 'x-user': 'Ada' }), get({ 'x-user': 'Bob' })])
    t.same(
      both.map((one) => one.body),
      ['for Ada', 'for Bob']
    )
    t.equal((await get({ 'x-user': 'Eve' })).body, 'for Eve')
    t.equal(calls(), 3, when)
  }
})

t.test('query: what any parser makes of the query counts, not its spelling', async (t) => {
  const parsers: Record<string, (text: string) => Record<string, unknown>> = {
    // As qs does.
    brackets: (text) => {
      const query: Record<string, unknown> = {}
      for (const [name, value] of new URLSearchParams(text)) query[name.replace(/\[.*$/, '')] = value
      return query
    },
    'letter case ignored': (text) => {
      const query: Record<string, unknown> = {}
      for (const [name, value] of new URLSearchParams(text)) query[name.toLowerCase()] = value
      return query
    },
    semicolons: (text) => Object.fromEntries(new URLSearchParams(text.replaceAll(';', '&'))),
    'an object without own names': (text) => {
      const query = new URLSearchParams(text)
      return new Proxy({}, { get: (_target, name) => query.get(String(name)) ?? undefined })
    }
  }
  for (const [name, querystringParser] of Object.entries(parsers)) {
    const app = await cached(t, { routerOptions: { querystringParser } })
    app.get(
      '/x',
      { config: { cache: { ttl: '1m', query: ['page'] } } },
      (request) => (request.query as Record<string, string>)['page'] ?? 'none'
    )
    for (const evil of [
      'page[]=evil',
      'page[a]=evil',
      'PAGE=evil',
      'a=1;page=evil',
      'page%5B%5D=evil',
      'p%61ge=evil'
    ]) {
      await app.inject(`/x?${evil}`)
      t.equal((await app.inject('/x')).body, 'none', `${name}: ${evil}`)
      await app.inject(`/x?a=1&${evil}`)
      t.notMatch((await app.inject('/x?a=1')).body, 'evil', `${name}: ${evil}`)
    }
    await app.inject('/x?page=2&utm=1')
    t.match((await app.inject('/x?page=2&utm=2')).headers['cache-status'], hit, 'others are left out')
  }
})

t.test('a host that a proxy names does not hide the one that the client names', async (t) => {
  const app = await cached(t, { trustProxy: true })
  app.get('/x', { config: { cache: { ttl: '1m' } } }, (request) => `//${request.raw.headers.host}/`)
  const ask = async (host: string): Promise<string> =>
    (await app.inject({ url: '/x', headers: { host, 'x-forwarded-host': 'one.example' } })).body
  t.equal(await ask('evil.example'), '//evil.example/')
  t.equal(await ask('good.example'), '//good.example/')
})

t.test('a rewritten URL is not one with another that is rewritten to it', async (t) => {
  const app = await cached(t, { rewriteUrl: () => '/x' })
  app.get('/x', { config: { cache: { ttl: '1m' } } }, (request) => request.originalUrl)
  t.equal((await app.inject('/a')).body, '/a')
  t.equal((await app.inject('/b')).body, '/b')
})

function* chunksOf(text: string): Generator<string> {
  for (let i = 0; i < text.length; i += 20_000) yield text.slice(i, i + 20_000)
}

/** A client that sends a request for `/x` and reads nothing until it is resumed. */
async function stuckClient(t: Test, app: FastifyInstance, ...headers: string[]): Promise<Socket> {
  if (!app.server.listening) await app.listen({ host: '127.0.0.1', port: 0 })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  socket.pause()
  socket.write(['GET /x HTTP/1.0', 'Host: localhost:80', ...headers, '', ''].join('\r\n'))
  return socket
}

/** The body, once the connection has ended. */
async function received(socket: Socket): Promise<string> {
  let text = ''
  socket.setEncoding('latin1')
  for await (const chunk of socket) text += String(chunk)
  return text.slice(text.indexOf('\r\n\r\n') + 4)
}

function connections(app: FastifyInstance): Promise<number> {
  return new Promise((resolve, reject) =>
    app.server.getConnections((error, count) => (error ? reject(error) : resolve(count)))
  )
}
