import { createCertificate, until } from '@flotilla/testbed'
import Fastify, {
  type FastifyInstance,
  type LightMyRequestResponse,
  type preHandlerHookHandler,
  type RouteHandlerMethod
} from 'fastify'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { request, type IncomingMessage } from 'node:http'
import { connect } from 'node:http2'
import { request as requestTls } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { json } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { flotillaCache } from '../src/index.js'
import { gate } from './support/app.js'
import { nextTurn, serve } from './support/http.js'

const status = (response: LightMyRequestResponse): string => String(response.headers['cache-status'])
const HIT = /^flotilla; hit/

t.test('a stored response is served with Age, ETag, Date and Cache-Status', async (t) => {
  const { calls, get } = await serve(t, { ttl: '1m' }, () => ({ n: 1 }))
  const first = await get()
  t.match(status(first), /^flotilla; fwd=uri-miss; ttl=60; stored$/)
  const second = await get()
  t.equal(second.body, first.body)
  t.equal(calls(), 1)
  t.match(status(second), /^flotilla; hit; ttl=(59|60)$/)
  t.equal(second.headers['age'], '0')
  for (const name of ['content-type', 'etag', 'date', 'cache-control']) {
    t.equal(second.headers[name], first.headers[name], name)
  }
  const known = await get({ 'if-none-match': String(first.headers['etag']) })
  t.equal(known.statusCode, 304)
  t.equal(known.body, '')
  t.equal((await get({ 'if-none-match': '"other"' })).statusCode, 200)
  t.equal(calls(), 1)
})

t.test('what the response says about freshness counts, and by whom', async (t) => {
  const past = new Date(Date.now() - 1000).toUTCString()
  const soon = new Date(Date.now() + 60_000).toUTCString()
  const old = new Date(Date.now() - 1e9).toUTCString()
  const cases: [string, Record<string, string>, boolean, object?][] = [
    ['nothing, route without ttl', {}, false, {}],
    ['max-age', { 'cache-control': 'max-age=60' }, true, {}],
    ['s-maxage before max-age', { 'cache-control': 'max-age=60, s-maxage=0' }, false],
    ['the first of two', { 'cache-control': 'max-age=60, max-age=0' }, true],
    ['quoted', { 'cache-control': 'max-age="60"' }, true],
    ['unreadable max-age', { 'cache-control': 'max-age=soon' }, false],
    ['unreadable header', { 'cache-control': 'max-age=60, =' }, false],
    ['no-store', { 'cache-control': 'no-store' }, false],
    ['must-understand', { 'cache-control': 'no-store, must-understand, max-age=60' }, true],
    ['private', { 'cache-control': 'private, max-age=60' }, false],
    ['no-cache', { 'cache-control': 'no-cache' }, false],
    ['Expires', { expires: soon }, true, {}],
    ['Expires in the past', { expires: past }, false],
    ['Expires 0', { expires: '0' }, false],
    ['max-age before Expires', { expires: past, 'cache-control': 'max-age=60' }, true],
    ['heuristic', { 'last-modified': old }, true, {}],
    ['Age used up', { 'cache-control': 'max-age=60', age: '60' }, false],
    ['CDN-Cache-Control first', { 'cdn-cache-control': 'max-age=60', 'cache-control': 'no-store' }, true],
    ['CDN-Cache-Control no-store', { 'cdn-cache-control': 'no-store', 'cache-control': 'max-age=60' }, false],
    [
      'CDN-Cache-Control that does not parse',
      { 'cdn-cache-control': 'max-age=;;', 'cache-control': 'no-store' },
      false
    ],
    [
      'CDN-Cache-Control with a string in place of an integer',
      { 'cdn-cache-control': 'max-age="60"', 'cache-control': 'no-store' },
      false
    ],
    [
      'our own field first',
      { 'flotilla-cache-control': 'no-store', 'cdn-cache-control': 'max-age=60' },
      false
    ],
    ['Vary: *', { vary: '*' }, false],
    ['Set-Cookie', { 'set-cookie': 'a=b' }, false],
    ['Set-Cookie where asked', { 'set-cookie': 'a=b' }, true, { ttl: '1m', setCookie: true }]
  ]
  for (const [name, headers, stored, route = { ttl: '1m' }] of cases) {
    const { calls, get } = await serve(t, route, (_request, reply) => reply.headers(headers).send('x'))
    const first = await get()
    await get()
    t.equal(calls(), stored ? 1 : 2, name)
    t.equal(first.headers['flotilla-cache-control'], undefined)
  }
})

t.test('statuses: errors only where they or the route say so', async (t) => {
  const cases: [number, Record<string, string>, boolean, object?][] = [
    [200, {}, true],
    [204, {}, true],
    [301, { location: '/y' }, true],
    [302, { location: '/y' }, false],
    [302, { location: '/y', 'cache-control': 'max-age=60' }, true],
    [400, {}, false],
    [404, {}, false],
    [404, { 'cache-control': 'max-age=60' }, true],
    [404, {}, true, { ttl: '1m', statuses: [404] }],
    [500, {}, false],
    [500, { 'cache-control': 'max-age=60' }, true],
    [206, { 'content-range': 'bytes 0-0/2' }, false]
  ]
  for (const [code, headers, stored, route = { ttl: '1m' }] of cases) {
    const { calls, get } = await serve(t, route, (_request, reply) =>
      reply.code(code).headers(headers).send()
    )
    await get()
    t.equal((await get()).statusCode, code)
    t.equal(calls(), stored ? 1 : 2, `${code} ${JSON.stringify(headers)}`)
  }
})

t.test('what the request asks', async (t) => {
  let n = 0
  const { calls, get } = await serve(t, { ttl: '1m' }, () => ({ n: ++n }))
  t.equal((await get({ 'cache-control': 'only-if-cached' })).statusCode, 504)
  t.equal(calls(), 0)
  await get()
  t.match(status(await get({ 'cache-control': 'only-if-cached' })), HIT)
  t.match(status(await get({ 'cache-control': 'max-age=60' })), HIT)
  t.match(status(await get({ 'cache-control': 'min-fresh=30' })), HIT)
  t.equal((await get({ 'cache-control': 'no-cache' })).json().n, 2, 'no-cache asks the handler')
  t.equal((await get()).json().n, 2, 'and stores what it says')
  t.equal((await get({ pragma: 'no-cache' })).json().n, 3)
  t.equal((await get({ 'cache-control': 'min-fresh=90' })).json().n, 4)
  t.equal((await get({ 'cache-control': 'no-store' })).json().n, 5)
  t.equal((await get()).json().n, 4, 'no-store stores nothing')
})

t.test('concurrent misses run the handler once', async (t) => {
  const go = gate()
  const { calls, get } = await serve(t, { ttl: '1m' }, async () => {
    await go.passed
    return 'x'
  })
  const all = Array.from({ length: 50 }, () => get())
  await until(() => calls() === 1, { message: 'one runs' })
  go.open()
  const responses = await Promise.all(all)
  t.ok(responses.every((one) => one.body === 'x' && one.statusCode === 200))
  t.equal(calls(), 1)
  t.equal(responses.filter((one) => /collapsed/.test(status(one))).length, 49)
})

t.test('what may not be shared is not shared among those who wait either', async (t) => {
  const go = gate()
  let n = 0
  const { calls, get } = await serve(t, { ttl: '1m' }, async (_request, reply) => {
    await go.passed
    void reply.header('cache-control', 'private')
    return { n: ++n }
  })
  const all = Array.from({ length: 10 }, () => get())
  await until(() => calls() === 1, { message: 'one runs' })
  go.open()
  const seen = (await Promise.all(all)).map((one) => one.json().n as number)
  t.equal(new Set(seen).size, 10)
})

t.test('Vary, known or found out', async (t) => {
  for (const vary of [['accept-language'], []]) {
    const { calls, get } = await serve(t, { ttl: '1m', vary }, (request, reply) => {
      void reply.header('vary', 'Accept-Language')
      return request.headers['accept-language'] ?? 'none'
    })
    const say = async (language: string): Promise<string> => (await get({ 'accept-language': language })).body
    for (let i = 0; i < 3; i++) {
      t.equal(await say('de'), 'de')
      t.equal(await say('en'), 'en')
      t.equal((await get()).body, 'none')
    }
    t.equal(await say('DE '), 'de', 'spellings that mean the same')
    t.equal(calls(), 3, 'the first is stored, although it is the one that names Vary')
  }
})

t.test('the first response that names Vary', async (t) => {
  const go = gate()
  let n = 0
  const { app, calls, get } = await serve(t, { ttl: '1m', tags: ['posts'] }, async (request, reply) => {
    void reply.header('vary', 'x-a')
    if (request.headers['x-a'] === 'late') await go.passed
    if (request.headers['x-etag']) {
      void reply.header('etag', '"v1"').header('cache-control', 'max-age=0, stale-if-error=60')
      if (request.headers['if-none-match'] === '"v1"') return reply.code(304).send()
    }
    const body = `${String(request.headers['x-a'])} ${++n}`
    return request.url === '/x?stream' ? reply.type('text/plain').send(Readable.from([body])) : body
  })
  for (const url of ['/x?text', '/x?stream']) {
    const before = calls()
    const all = await Promise.all(Array.from({ length: 10 }, () => get({ 'x-a': '1' }, url)))
    t.equal(new Set(all.map(({ body }) => body)).size, 1, 'concurrent ones share it')
    t.match(status(await get({ 'x-a': '1', range: 'bytes=0-0' }, url)), HIT, 'so do later ones')
    t.match(status(await app.inject({ method: 'HEAD', url, headers: { 'x-a': '1' } })), HIT)
    t.match(status(await get({ 'x-a': '1', 'cache-control': 'only-if-cached' }, url)), HIT)
    t.equal(calls(), before + 1)
    t.equal((await get({ 'x-a': '2' }, url)).body, `2 ${n}`, 'others do not')
    await app.cache.invalidateTags(['posts'])
    t.equal((await get({ 'x-a': '1' }, url)).body, `1 ${n}`, 'it is invalidated as any other')
    t.equal(calls(), before + 3)
  }
  const late = get({ 'x-a': 'late' }, '/x?late')
  await until(() => calls() === 7, { message: 'its handler runs' })
  await app.cache.invalidateTags(['posts'])
  go.open()
  t.equal((await late).body, `late ${n}`)
  t.equal((await get({ 'x-a': 'late' }, '/x?late')).body, `late ${n}`)
  t.equal(calls(), 8, 'a write during the fill wins')

  const first = await get({ 'x-a': '1', 'x-etag': '1' }, '/x?validated')
  const second = await get({ 'x-a': '1', 'x-etag': '1' }, '/x?validated')
  t.match(status(second), /fwd=stale; fwd-status=304/, 'it is validated as any other')
  t.equal(second.body, first.body)
})

t.test('no-cache with a validator is stored and validated at every use', async (t) => {
  for (const validator of ['etag', 'last-modified']) {
    let version = 1
    const asked: unknown[] = []
    const value = (): string =>
      validator === 'etag' ? `"v${version}"` : new Date(version * 1e9).toUTCString()
    const { calls, get } = await serve(t, { ttl: '1m', swr: '1m', grace: '1m' }, ({ headers }, reply) => {
      const condition = headers[validator === 'etag' ? 'if-none-match' : 'if-modified-since']
      asked.push(condition)
      void reply.header('cache-control', 'no-cache, max-age=60').header(validator, value())
      return condition === value() ? reply.code(304).send() : `version ${version}`
    })
    for (const wanted of ['version 1', 'version 1', 'version 2', 'version 2']) {
      if (wanted === 'version 2') version = 2
      t.equal((await get()).body, wanted)
    }
    for (const directive of ['max-stale=1000', 'max-age=1000']) {
      t.equal((await get({ 'cache-control': directive })).body, 'version 2')
    }
    t.equal((await get({ 'cache-control': 'only-if-cached' })).statusCode, 504)
    t.equal(calls(), 6, 'the handler is asked each time')
    t.same(asked.slice(0, 2), [undefined, asked[1]])
    t.notSame(asked[1], undefined)
  }
})

t.test('freshness that was meant for the success is not of the error that is thrown', async (t) => {
  const { calls, get } = await serve(t, { ttl: '1m' }, (request, reply) => {
    void reply.header('cache-control', 'public, max-age=60')
    const statusCode = Number(request.headers['x-status'])
    throw Object.assign(new Error('broken'), { statusCode })
  })
  for (const code of ['400', '404', '500', '503']) {
    for (let i = 0; i < 2; i++)
      t.equal((await get({ 'x-status': code }, `/x?${code}`)).statusCode, Number(code))
  }
  t.equal(calls(), 8)
})

t.test('ranges and HEAD from a stored whole', async (t) => {
  const { calls, get, app } = await serve(t, { ttl: '1m' }, () => '0123456789')
  const etag = String((await get()).headers['etag'])
  const cases: [Record<string, string>, number, string, string?][] = [
    [{ range: 'bytes=2-4' }, 206, '234', 'bytes 2-4/10'],
    [{ range: 'bytes=7-' }, 206, '789', 'bytes 7-9/10'],
    [{ range: 'bytes=-3' }, 206, '789', 'bytes 7-9/10'],
    [{ range: 'bytes=2-400' }, 206, '23456789', 'bytes 2-9/10'],
    [{ range: 'bytes=10-' }, 416, '', 'bytes */10'],
    [{ range: 'bytes=4-2' }, 200, '0123456789'],
    [{ range: 'bytes=0-1,4-5' }, 200, '0123456789'],
    [{ range: 'lines=1-2' }, 200, '0123456789'],
    [{ range: 'bytes=2-4', 'if-range': etag }, 206, '234', 'bytes 2-4/10'],
    [{ range: 'bytes=2-4', 'if-range': '"other"' }, 200, '0123456789']
  ]
  for (const [headers, code, body, contentRange] of cases) {
    const response = await get(headers)
    t.equal(response.statusCode, code, JSON.stringify(headers))
    t.equal(response.body, body)
    t.equal(response.headers['content-range'], contentRange)
  }
  const head = await app.inject({ method: 'HEAD', url: '/x' })
  t.equal(head.headers['content-length'], '10')
  t.equal(head.body, '')
  t.match(status(head), HIT)
  t.equal(calls(), 1)

  const cold = await serve(t, { ttl: '1m' }, () => '0123456789')
  const part = await cold.get({ range: 'bytes=2-4' })
  t.equal(part.statusCode, 206)
  t.equal(part.body, '234', 'the first request may ask for a part')
  t.equal((await cold.get()).body, '0123456789', 'the whole is stored')
  t.equal(cold.calls(), 1)
})

t.test('stale-while-revalidate in the background, through all hooks', async (t) => {
  let n = 0
  const { calls, get, app } = await serve(t, { ttl: 30, swr: '1m' }, () => ({ n: ++n }))
  t.ok(app)
  await get({ 'x-id': 'a' })
  await until(async () => (await get()).json().n === 2, { message: 'refreshed' })
  t.ok(calls() >= 2)
  const stale = await serve(t, { swr: '1m' }, (_request, reply) => {
    void reply.header('cache-control', 'max-age=0, stale-while-revalidate=60')
    return 'x'
  })
  await stale.get()
  t.match(status(await stale.get()), /^flotilla; hit; ttl=(-1|-0|0)/)
})

t.test('a refresh asks for what the request asked for, over HTTP/2 and TLS too', async (t) => {
  const folder = t.testdir()
  const ca = await createCertificate(folder)
  const https = { key: await readFile(join(folder, 'server.key')), cert: ca }
  const servers: [string, boolean, () => FastifyInstance][] = [
    ['HTTP/1', false, () => Fastify()],
    ['HTTP/1 over TLS', false, () => Fastify({ https })],
    ['HTTP/2', true, () => Fastify({ http2: true }) as unknown as FastifyInstance],
    ['HTTP/2 over TLS', true, () => Fastify({ http2: true, https }) as unknown as FastifyInstance]
  ]
  for (const [name, two, create] of servers) {
    await t.test(name, async (t) => {
      const app = create()
      t.teardown(() => app.close())
      await app.register(flotillaCache, { redis: false })
      const asked = new Set<string>()
      let calls = 0
      const config = { cache: { ttl: 30, swr: '1m', vary: ['user-agent'] } }
      app.get('/x', { config }, ({ protocol, host, headers, ip }) => {
        asked.add(
          JSON.stringify([protocol, host, headers.host ?? headers[':authority'], headers['user-agent'], ip])
        )
        return { n: ++calls }
      })
      await app.listen({ host: '127.0.0.1', port: 0 })
      const { port } = app.server.address() as AddressInfo
      const url = new URL(`http${name.endsWith('TLS') ? 's' : ''}://localhost:${port}`)
      const get = two ? http2Client(t, url, ca) : http1Client(url, ca)
      t.same(await get(), { n: 1 })
      await until(async () => ((await get()) as { n: number }).n > 1, { message: 'it is refreshed' })
      t.equal(asked.size, 1, `asked for ${[...asked].join(' and ')}`)
    })
  }
})

function http1Client(url: URL, ca: string): () => Promise<unknown> {
  return async () => {
    const sent = (url.protocol === 'https:' ? requestTls : request)(new URL('/x', url), { ca, agent: false })
    const [response] = (await once(sent.end(), 'response')) as [IncomingMessage]
    return json(response)
  }
}

function http2Client(t: Pick<Test, 'teardown'>, url: URL, ca: string): () => Promise<unknown> {
  const session = connect(url, { ca })
  t.teardown(() => session.close())
  return () => json(session.request({ ':path': '/x' }))
}

t.test('stale-if-error', async (t) => {
  let broken = false
  const { get } = await serve(t, { ttl: 20, grace: '1m' }, (_request, reply) => {
    if (broken) throw new Error('down')
    void reply.header('x-from', 'handler')
    return { fine: true }
  })
  const first = await get()
  broken = true
  await until(async () => /fwd-status=500|ttl=-/.test(status(await get())), { message: 'no longer fresh' })
  const stale = await get()
  t.equal(stale.statusCode, 200)
  t.equal(stale.body, first.body)
  t.equal(stale.headers['x-from'], 'handler')
  const none = await serve(t, { ttl: '1m' }, () => {
    throw new Error('down')
  })
  t.equal((await none.get()).statusCode, 500, 'without a stored one it is an error')
})

t.test('what a PUT has made old is not served in place of an error', async (t) => {
  const go = gate()
  let broken = false
  const { app, calls, get } = await serve(t, { ttl: 20, grace: '1m' }, async () => {
    if (!broken) return 'old'
    await go.passed
    throw new Error('down')
  })
  await get()
  broken = true
  const asking = until(async () => {
    const response = await get()
    return status(response).includes('fwd-status=500') && response
  })
  await until(() => calls() > 1, { message: 'no longer fresh' })
  await app.inject({ method: 'POST', url: '/x' })
  const later = get()
  await nextTurn()
  go.open()
  t.equal((await asking).body, 'old', 'it was asked for before')
  t.equal((await later).statusCode, 500)
})

t.test('the handler is asked with the stored validators; 304 updates the stored headers', async (t) => {
  let n = 0
  // Stale from the start.
  const { calls, get } = await serve(t, { ttl: '1m', grace: '1h' }, (request, reply) => {
    void reply.header('etag', '"v1"').header('x-count', String(++n))
    if (request.headers['if-none-match'] === '"v1"') return reply.code(304).send()
    void reply.header('age', '100')
    return { body: true }
  })
  const first = await get()
  await nextTurn()
  const validated = await get()
  t.match(status(validated), /fwd=stale; fwd-status=304; ttl=60; stored/)
  const again = await get()
  t.match(status(again), HIT)
  for (const response of [validated, again]) {
    t.equal(response.statusCode, 200)
    t.equal(response.body, first.body)
    t.equal(response.headers['x-count'], '2')
  }
  t.equal((await get({ 'if-none-match': '"v1"' })).statusCode, 304)
  t.equal(calls(), 2)
  const since = await serve(t, { ttl: '1m' }, (_request, reply) => {
    void reply.header('last-modified', 'Tue, 01 Jan 2030 00:00:00 GMT')
    return 'x'
  })
  await since.get()
  t.equal((await since.get({ 'if-modified-since': 'Tue, 01 Jan 2030 00:00:00 GMT' })).statusCode, 304)
  t.equal((await since.get({ 'if-modified-since': 'Mon, 01 Jan 2029 00:00:00 GMT' })).statusCode, 200)
})

t.test('streams are stored up to a limit and always passed on', async (t) => {
  const small = await serve(t, { ttl: '1m' }, (_request, reply) =>
    reply.type('text/plain').send(Readable.from(['a', 'b', 'c']))
  )
  t.equal((await small.get()).body, 'abc')
  t.equal((await small.get()).body, 'abc')
  t.equal(small.calls(), 1)
  const large = await serve(t, { ttl: '1m', maxBody: '1kb' }, (_request, reply) =>
    reply.type('text/plain').send(Readable.from(['x'.repeat(600), 'y'.repeat(600)]))
  )
  t.equal((await large.get()).body.length, 1200)
  t.equal((await large.get()).body.length, 1200)
  t.equal(large.calls(), 2)
  const cut = await serve(t, { ttl: '1m' }, (_request, reply) => {
    async function* half(): AsyncGenerator<string> {
      yield 'a'
      throw new Error('cut')
    }
    return reply.type('text/plain').send(Readable.from(half()))
  })
  for (let i = 0; i < 2; i++) await t.rejects(cut.get(), 'it breaks half way')
  t.equal(cut.calls(), 2, 'and is not stored')
})

t.test('unsafe methods and tags purge', async (t) => {
  let n = 0
  const { app, get } = await serve(t, { ttl: '1m', tags: ['posts'] }, (_request, reply) => {
    void reply.header('cache-tag', 'post:1, post:2')
    return { n: ++n }
  })
  const now = async (url = '/x'): Promise<number> => (await get({}, url)).json().n as number
  t.equal(await now(), 1)
  t.equal(await now(), 1)
  t.equal((await get()).headers['cache-tag'], undefined)
  await app.cache.invalidateTags(['posts'])
  t.equal(await now(), 2)
  await app.cache.invalidateTags(['post:2'])
  t.equal(await now(), 3, 'tags of the response')
  const query = await now('/x?page=2')
  t.equal(await now('/x?page=2'), query)
  await app.inject({ method: 'POST', url: '/x' })
  t.equal(await now('/x?page=2'), query + 1, 'POST to the path')
  await app.inject({ method: 'POST', url: '/other' })
  t.equal(await now('/x?page=2'), query + 2, 'Location')
  await app.inject({ method: 'POST', url: '/failing' })
  t.equal(await now('/x?page=2'), query + 2, 'an error changes nothing')
  await app.cache.clear()
  t.equal(await now('/x?page=2'), query + 3, 'clear')
})

t.test('it sits behind every hook, those that a plugin adds to routes later too', async (t) => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(flotillaCache, { redis: false })
  let calls = 0
  await app.register(async (scope) => {
    scope.addHook('onRoute', (route) => {
      const guard: preHandlerHookHandler = (request, reply, done) => {
        if (request.headers['x-key'] === 'right') done()
        else void reply.code(401).send('no key')
      }
      route.preHandler = [...[route.preHandler ?? []].flat(), guard]
    })
    scope.get('/secret', { config: { cache: { ttl: '1m' } } }, () => ({ secret: ++calls }))
  })
  const ask = (headers: Record<string, string>, method: 'GET' | 'HEAD' = 'GET') =>
    app.inject({ method, url: '/secret', headers })
  const key = { 'x-key': 'right' }
  t.same((await ask(key)).json(), { secret: 1 })
  t.match(status(await ask(key)), HIT)
  for (const method of ['GET', 'HEAD'] as const) {
    const refused = await ask({}, method)
    t.equal(refused.statusCode, 401, method)
    t.notMatch(refused.body, 'secret')
    t.equal(refused.headers['cache-status'], undefined)
  }
  t.match(status(await ask(key, 'HEAD')), HIT)
  t.equal(calls, 1)
})

t.test(
  'handlers of every kind answer as without the cache, and are run once for what is stored',
  async (t) => {
    const handlers: Record<string, RouteHandlerMethod> = {
      'a value': () => 'x',
      'a promise': async () => (await nextTurn(), 'x'),
      'a promise of nothing, sent before': async (_request, reply) => void reply.send('x'),
      'the reply': (_request, reply) => reply.send('x'),
      'a promise of the reply': async (_request, reply) => (await nextTurn(), reply.send('x')),
      'nothing, sent at once': (_request, reply) => void reply.send('x'),
      'nothing, sent later': (_request, reply) => void setImmediate(() => void reply.send('x')),
      'its instance': function () {
        return (this as FastifyInstance & { word: string }).word
      }
    }
    const failures: Record<string, RouteHandlerMethod> = {
      'an error': () => {
        throw new Error('x')
      },
      'a promise of an error': async () => {
        await nextTurn()
        throw new Error('x')
      },
      'an error, sent': (_request, reply) => void reply.send(new Error('x'))
    }
    for (const wrapped of [false, true]) {
      const app = Fastify()
      t.teardown(() => app.close())
      await app.register(flotillaCache, { redis: false })
      app.decorate('word', 'x')
      const calls = new Map<string, number>()
      // As plugins do that trace handlers; the response is under way for a while.
      if (wrapped) {
        app.addHook('onRoute', (route) => {
          const { handler } = route
          route.handler = async function (request, reply) {
            return await handler.call(this, request, reply)
          }
        })
        app.addHook('onSend', async (_request, _reply, payload) => (await nextTurn(), payload))
      }
      const urls = new Map<string, string>()
      for (const [name, handler] of Object.entries({ ...handlers, ...failures })) {
        const url = `/${name.replaceAll(/\W+/g, '-')}`
        urls.set(name, url)
        app.get(url, { config: { cache: { ttl: '1m' } } }, function (request, reply) {
          calls.set(name, (calls.get(name) ?? 0) + 1)
          return handler.call(this, request, reply)
        })
      }
      for (const [name, url] of urls) {
        const failing = name in failures
        const told = `${name}${wrapped ? ', wrapped' : ''}`
        for (const [headers, count] of [
          [{}, 1],
          [{}, failing ? 2 : 1],
          [{ 'cache-control': 'no-store' }, failing ? 3 : 2]
        ] as const) {
          const response = await app.inject({ url, headers })
          t.equal(response.statusCode, failing ? 500 : 200, told)
          if (failing) t.equal(response.json().message, 'x', told)
          else t.equal(response.body, 'x', told)
          t.equal(calls.get(name), count, `${told} ${JSON.stringify(headers)}`)
        }
        const head = await app.inject({ url, method: 'HEAD' })
        t.equal(head.statusCode, failing ? 500 : 200, told)
        t.equal(calls.get(name), failing ? 4 : 2, told)
      }
    }
  }
)

t.test(
  'a WebSocket is no response: its route is refused, a request for one reaches the handler',
  async (t) => {
    const { calls, get, app } = await serve(t, { ttl: '1m' }, () => 'x')
    await get()
    t.match(status(await get()), HIT)
    t.match(
      status(await get({ connection: 'upgrade', upgrade: 'websocket' })),
      /fwd=bypass; detail="upgrade"/
    )
    t.equal(calls(), 2)
    t.ok(app)
    const other = Fastify()
    t.teardown(() => other.close())
    await other.register(flotillaCache, { redis: false })
    const route = {
      method: 'GET',
      url: '/ws',
      websocket: true,
      config: { cache: {} },
      handler: () => 1
    } as const
    t.throws(() => other.route(route), {
      code: 'FLOTILLA_CACHE_ERR_OPTIONS',
      message: /'\/ws'.*WebSocket/
    })
  }
)

t.test("a request's own hooks win over stored headers", async (t) => {
  const { get } = await serve(t, { ttl: '1m' }, () => 'x')
  t.equal((await get({ 'x-id': 'a' })).headers['x-id'], 'a')
  t.equal((await get({ 'x-id': 'b' })).headers['x-id'], 'b')
})

t.test('a hook that names Vary does not hide what the handler named', async (t) => {
  const vary = ['origin', 'accept-language']
  const routes = (app: FastifyInstance): void => {
    app.addHook('onRequest', async (_request, reply) => void reply.header('vary', 'Origin'))
  }
  const { calls, get } = await serve(
    t,
    { ttl: '1m', grace: '1h', vary },
    (request, reply) => {
      void reply.header('etag', '"v1"')
      if (request.headers['if-none-match']) return reply.code(304).send()
      void reply.header('vary', `${String(reply.getHeader('vary'))}, Accept-Language`)
      return reply.header('age', '100').send('x')
    },
    {},
    { routes }
  )
  for (const name of ['stored', 'confirmed', 'hit']) {
    await nextTurn()
    t.equal((await get()).headers.vary, 'Origin, Accept-Language', name)
  }
  t.equal(calls(), 2)
})

t.test('a client that goes away does not send those who wait to the handler together', async (t) => {
  const go = gate()
  const { app, calls, get } = await serve(t, { ttl: '1m' }, async () => {
    await go.passed
    return 'x'
  })
  const leader = request((await app.listen({ host: '127.0.0.1', port: 0 })) + '/x', {
    headers: { host: 'localhost:80' }
  })
  leader.on('error', () => undefined).end()
  await until(() => calls() === 1, { message: 'it runs' })
  const all = Array.from({ length: 10 }, () => get())
  await nextTurn()
  leader.destroy()
  await until(() => calls() === 2, { message: 'one of them takes over' })
  go.open()
  t.ok((await Promise.all(all)).every((one) => one.body === 'x'))
  t.equal(calls(), 2)
})

t.test('tags of a route that throw, or are none, fail its request alone', async (t) => {
  let broken = true
  const tags = (): string[] => {
    if (broken) throw new Error('no tags')
    return []
  }
  const { get } = await serve(t, { ttl: '1m', tags }, () => 'x')
  const failed = await get()
  t.equal(failed.statusCode, 500)
  t.match(failed.body, 'no tags')
  broken = false
  t.equal((await get()).body, 'x')
  for (const wrong of [[''], 'posts', [7]]) {
    const { get } = await serve(t, { ttl: '1m', tags: () => wrong as string[] }, () => 'x')
    const response = await get()
    t.equal(response.statusCode, 500, JSON.stringify(wrong))
    t.equal(response.json().code, 'FLOTILLA_CACHE_ERR_TAGS')
  }
})

t.test('routes that were declared before the plugin was loaded', async (t) => {
  const lines: string[] = []
  const app = Fastify({ logger: { stream: { write: (line: string) => void lines.push(line) } } })
  t.teardown(() => app.close())
  let n = 0
  // Nothing is awaited: the routes are there when the plugin is loaded.
  void app.register(flotillaCache, { redis: false })
  app.get('/early', { config: { cache: { ttl: '1m' } } }, () => ({ n: ++n }))
  app.get('/plain', () => 'x')
  app.put('/later/:id', (_request, reply) => reply.send('done'))
  void app.register(async (child) => {
    child.get('/later/:id', { config: { cache: { ttl: '1m' } } }, () => ({ n: ++n }))
    child.put('/later/:id/own', () => 'done')
  })
  for (const url of ['/early', '/early', '/plain']) await app.inject(url)
  await app.inject({ method: 'HEAD', url: '/early' })
  const told = lines.filter((line) => line.includes('config.cache'))
  t.equal(told.length, 1, 'once')
  t.match(told[0], /config\.cache of '\/early' has no effect.*await app\.register/)

  const later = async (): Promise<string> => (await app.inject('/later/1')).body
  const stored = await later()
  t.equal(await later(), stored, 'what is loaded after the plugin is cached')
  t.equal((await app.inject({ method: 'PUT', url: '/later/1' })).statusCode, 200)
  t.not(await later(), stored, 'and an unsafe route that is not invalidates it')
  t.equal(lines.filter((line) => line.includes('has no effect')).length, 1)
})

t.test(
  'unsafe methods purge whatever their route calls the parameters, and nothing that is not cached',
  async (t) => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(flotillaCache, { redis: false })
    let n = 0
    app.get('/posts/:id', { config: { cache: { ttl: '1m' } } }, () => ({ n: ++n }))
    app.put('/posts/:slug', () => 'done')
    app.put('/else', (_request, reply) => reply.header('location', '/nowhere').send('done'))
    const now = async (): Promise<number> => (await app.inject('/posts/1')).json().n as number
    t.equal(await now(), 1)
    t.equal(await now(), 1)
    await app.inject({ method: 'PUT', url: '/posts/1' })
    t.equal(await now(), 2)
    let told = 0
    const listener = (): void => void told++
    subscribe('flotilla:cache:invalidate', listener)
    t.teardown(() => unsubscribe('flotilla:cache:invalidate', listener))
    await app.inject({ method: 'PUT', url: '/else' })
    t.equal(told, 0)
  }
)

t.test('request headers made to be slow to read', async (t) => {
  const { get } = await serve(t, { ttl: '1m' }, (_request, reply) =>
    reply.header('vary', 'accept').send('0123')
  )
  await get({ accept: 'a' })
  const blanks = `a${' '.repeat(15_000)}b`
  const began = process.cpuUsage()
  for (const name of ['cache-control', 'pragma', 'accept', 'range', 'if-range', 'if-none-match']) {
    const value = name === 'range' ? `bytes=${blanks}` : blanks
    for (const filler of [
      value,
      value.replaceAll(' ', ' ,'),
      value.replaceAll(' ', '"'),
      value.replaceAll(' ', '\t')
    ])
      t.equal((await get({ accept: 'a', [name]: filler })).statusCode, 200, name)
  }
  const { user } = process.cpuUsage(began)
  t.ok(user < 1_500_000, `${user / 1000} ms of the processor for 24 requests`)
})

t.test(
  'a handler asks for the token of the write that dropped the last response, and only then is its answer kept',
  async (t) => {
    const asking = await serve(t, { ttl: '1m', tags: ['posts'] }, (request) => ({
      after: request.cacheFill?.after ?? null
    }))
    t.same((await asking.get()).json(), { after: null })
    await asking.app.cache.invalidateTags(['posts'], { after: 'token-1' })
    t.same((await asking.get()).json(), { after: 'token-1' })
    t.same((await asking.get()).json(), { after: 'token-1' }, 'from what is stored')
    t.equal(asking.calls(), 2)

    const careless = await serve(t, { ttl: '1m', tags: ['posts'] }, () => ({ n: 1 }))
    await careless.get()
    await careless.app.cache.invalidateTags(['posts'], { after: 'token-1' })
    await careless.get()
    await careless.get()
    t.equal(careless.calls(), 3, 'what may have been read from a replica that is behind is not stored')
  }
)

t.test('a handler names tags, a ttl, or that nothing is to be stored, as a factory does', async (t) => {
  const { app, calls, get } = await serve(t, { ttl: '1m' }, (request, reply) => {
    request.cacheFill?.tags('mine')
    request.cacheFill?.ttl('1h')
    if (request.url === '/x?skip') request.cacheFill?.skip()
    if (request.url === '/x?own') void reply.header('cache-control', 'max-age=5')
    return 'x'
  })
  t.match(status(await get()), /ttl=3600; stored/)
  t.match(status(await get()), HIT)
  await app.cache.invalidateTags(['mine'])
  t.match(status(await get()), /stored/)
  t.equal(calls(), 2)
  t.match(status(await get({}, '/x?own')), /ttl=5; stored/, 'what the response says comes first')
  t.match(status(await get({}, '/x?skip')), /detail="skipped"/)
  t.match(status(await get({}, '/x?skip')), /fwd=uri-miss/)
  t.equal(calls(), 5)
})
