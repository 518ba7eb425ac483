/* The cache goes on storing and serving beside errors, private responses and impatient clients. */
import { markPersonal } from '@flotilla/core'
import fastifyEtag from '@fastify/etag'
import { startRedis, until } from '@flotilla/testbed'
import Fastify, { type FastifyReply, type FastifyRequest, type LightMyRequestResponse } from 'fastify'
import { Readable } from 'node:stream'
import { ReadableStream } from 'node:stream/web'
import t from 'tap'
import { flotillaCache } from '../src/index.js'
import { gate, startApp } from './support/app.js'
import { nextTurn, serve } from './support/http.js'

const status = (response: LightMyRequestResponse): string => String(response.headers['cache-status'])

t.test('an error does not switch storing off', async (t) => {
  const { calls, get } = await serve(t, { ttl: '1m' }, (request, reply) =>
    request.headers['x-bad'] ? reply.code(400).send('bad') : 'fine'
  )
  t.equal((await get({ 'x-bad': '1' })).statusCode, 400)
  for (let i = 0; i < 20; i++) t.equal((await get()).body, 'fine')
  t.equal(calls(), 2, 'the first that can be stored is')
  t.equal((await get({ 'x-bad': '1', 'cache-control': 'no-cache' })).statusCode, 400)
  for (let i = 0; i < 20; i++) t.equal((await get()).body, 'fine')
  t.equal(calls(), 3, 'what is stored is served on')
})

t.test('while a refresh in the background fails, the old copy is served on', async (t) => {
  for (const how of ['an error', 'a response for one visitor']) {
    let broken = false
    const { calls, get } = await serve(t, { ttl: 20, swr: '1m' }, (request, reply) => {
      if (!broken) return 'old'
      if (how === 'an error') return reply.code(503).send('new')
      markPersonal(request)
      return 'new'
    })
    await get()
    broken = true
    await until(async () => /ttl=-/.test(status(await get())), { message: 'it is stale' })
    // Each asks again: at the very millisecond of expiry the store may still count the copy as fresh.
    await until(async () => (await get()) && calls() >= 2, { message: 'a refresh has begun' })
    const before = calls()
    for (let i = 0; i < 30; i++) {
      await nextTurn()
      t.equal((await get()).body, 'old', how)
    }
    t.ok(calls() <= before + 1, `${how}: ${calls() - before} more`)
  }
})

t.test('a refresh that finds the page gone drops the copy', async (t) => {
  let gone = false
  const { get } = await serve(t, { ttl: 20, swr: '1m' }, (_request, reply) =>
    gone ? reply.code(404).send('gone') : 'there'
  )
  await get()
  gone = true
  await until(async () => (await get()).statusCode === 404, { message: 'it is gone' })
})

t.test('requests with Authorization never wait for one another', async (t) => {
  const go = gate()
  const { calls, get } = await serve(t, { ttl: '1m' }, async () => {
    await go.passed
    return 'x'
  })
  const all = Array.from({ length: 10 }, (_, i) => get({ authorization: `user ${i}` }))
  await until(() => calls() === 10, { message: 'all run side by side' })
  go.open()
  for (const one of await Promise.all(all)) t.equal(one.body, 'x')
})

t.test('requests for what turned out personal, oversized or private run side by side', async (t) => {
  for (const kind of ['personal', 'oversized', 'oversized stream', 'private', 'late personal']) {
    const gates = [gate(), gate()]
    gates[0]!.open()
    let n = 0
    const { calls, get } = await serve(t, { ttl: '1m', maxBody: 1000 }, async (request, reply) => {
      await gates[n++ === 0 ? 0 : 1]!.passed
      if (kind === 'personal') markPersonal(request)
      if (kind === 'private') reply.header('cache-control', 'private')
      if (kind === 'oversized') return 'x'.repeat(2000)
      if (kind === 'oversized stream') return reply.type('text/plain').send(Readable.from(['x'.repeat(2000)]))
      if (kind !== 'late personal') return 'x'
      async function* body(): AsyncGenerator<string> {
        yield 'x'
        markPersonal(request)
      }
      return reply.type('text/plain').send(Readable.from(body()))
    })
    await get()
    const all = Array.from({ length: 10 }, () => get())
    await until(() => calls() === 11, { message: `${kind}: all run side by side` })
    gates[1]!.open()
    await Promise.all(all)
  }
})

t.test('on two instances, too', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const go = gate()
  let calls = 0
  const apps = await Promise.all(
    [1, 2].map(async () => {
      const app = await startApp(t, redis.url, {}, (one) => {
        one.get('/x', { config: { cache: { ttl: '1m' } } }, async (request) => {
          if (++calls > 2) await go.passed
          if (!request.headers.authorization) markPersonal(request)
          return 'x'
        })
      })
      await app.inject('/x')
      return app
    })
  )
  const all = apps.flatMap((app) =>
    [{}, {}, { authorization: 'a' }, { authorization: 'b' }].map((headers) =>
      app.inject({ url: '/x', headers })
    )
  )
  await until(() => calls === 10, { message: 'all run side by side' })
  go.open()
  for (const one of await Promise.all(all)) t.equal(one.body, 'x')
})

t.test('concurrent no-cache requests run the handler twice at most, each after it was asked', async (t) => {
  for (const ask of [
    { 'cache-control': 'no-cache' },
    { 'cache-control': 'max-age=0' },
    { pragma: 'no-cache' }
  ]) {
    const gates = [gate(), gate()]
    gates[0]!.open()
    let n = 0
    const { calls, get } = await serve(t, { ttl: '1m' }, async () => {
      const made = ++n
      await gates[made === 2 ? 1 : 0]!.passed
      return { made }
    })
    await get()
    await nextTurn()
    const all = Array.from({ length: 50 }, () => get(ask))
    await until(() => calls() === 2, { message: 'one runs' })
    gates[1]!.open()
    const made = (await Promise.all(all)).map((one) => one.json().made as number)
    t.same(
      [...new Set(made)].sort((a, b) => a - b),
      [2, 3]
    )
    t.equal(made.filter((one) => one === 2).length, 1, 'those that came while it ran wait for the next')
    t.equal((await get()).json().made, 3, 'which is stored')
    t.equal(calls(), 3)
  }
})

t.test('request directives can be ignored', async (t) => {
  const { calls, get } = await serve(t, { ttl: '1m' }, () => 'x', { http: { ignoreRequestDirectives: true } })
  await get()
  for (const value of ['no-cache', 'no-store', 'max-age=0', 'min-fresh=1000', 'NO-CACHE, max-age=0']) {
    t.match(status(await get({ 'cache-control': value })), /hit/, value)
  }
  t.match(status(await get({ pragma: 'no-cache' })), /hit/)
  t.equal((await get({ 'cache-control': 'only-if-cached' }, '/x?else')).statusCode, 504)
  t.equal(calls(), 1)
})

t.test('cold HEADs wait for one GET, whose response is stored', async (t) => {
  const go = gate()
  const { app, calls, get } = await serve(t, { ttl: '1m' }, async (request) => {
    await go.passed
    return request.method
  })
  const all = Array.from({ length: 20 }, () => app.inject({ method: 'HEAD', url: '/x' }))
  await until(() => calls() === 1, { message: 'one runs' })
  go.open()
  for (const { statusCode, headers, body } of await Promise.all(all)) {
    t.match(
      { statusCode, body, length: headers['content-length'] },
      { statusCode: 200, body: '', length: '3' }
    )
  }
  t.equal((await get()).body, 'GET')
  t.equal(calls(), 1)
})

t.test('payloads of the Fetch API are stored', async (t) => {
  const stream = (): ReadableStream =>
    new ReadableStream({
      start: (controller) => {
        controller.enqueue(new TextEncoder().encode('whole '))
        controller.enqueue(new TextEncoder().encode('body'))
        controller.close()
      }
    })
  for (const kind of ['Response', 'ReadableStream', 'empty']) {
    const { calls, get } = await serve(t, { ttl: '1m' }, (_request, reply) => {
      if (kind === 'empty') return reply.send(new Response(null, { status: 204, headers: { 'x-a': '1' } }))
      if (kind === 'ReadableStream') return reply.header('x-a', '1').type('text/plain').send(stream())
      const headers = { 'content-type': 'text/plain', 'x-a': '1' }
      return reply.send(new Response(stream(), { status: 203, headers }))
    })
    const first = await get()
    const second = await get()
    t.equal(calls(), 1, kind)
    t.equal(second.statusCode, { Response: 203, ReadableStream: 200, empty: 204 }[kind])
    t.equal(second.headers['x-a'], '1')
    t.equal(first.body, kind === 'empty' ? '' : 'whole body')
    t.equal(second.body, first.body)
  }
})

t.test('the media type of what is stored is the one that the handler sent', async (t) => {
  const { get } = await serve(t, { ttl: '1m' }, (request, reply) => {
    if (request.url === '/x?redirect') return reply.redirect('/y', 301)
    if (request.url === '/x?stream') return reply.send(Readable.from(['text']))
    return reply.type('text/plain').send(Readable.from(['text']))
  })
  for (const url of ['/x?redirect', '/x?stream', '/x']) {
    const first = await get({}, url)
    const second = await get({}, url)
    t.match(status(second), /hit/, url)
    t.equal(second.headers['content-type'], first.headers['content-type'], url)
    t.equal(second.body, first.body)
  }
})

t.test('conditions and ranges of what is not stored are answered as without the cache', async (t) => {
  const body = Array.from({ length: 200 }, (_, i) => `${i}`.padStart(10)).join('')
  /** As a handler does that knows conditions and ranges. */
  const conditional = ({ headers }: FastifyRequest, reply: FastifyReply): unknown => {
    void reply
      .header('etag', '"v1"')
      .header('last-modified', 'Mon, 02 Nov 2026 10:00:00 GMT')
      .type('text/plain')
    if (headers['if-match'] !== undefined && headers['if-match'] !== '"v1"') return reply.code(412).send()
    if (headers['if-none-match'] === '"v1"') return reply.code(304).send()
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? []
    if (first === undefined) return body
    void reply.code(206).header('content-range', `bytes ${first}-${last}/${body.length}`)
    return body.slice(Number(first), Number(last) + 1)
  }
  const kinds: Record<string, (request: FastifyRequest, reply: FastifyReply) => unknown> = {
    personal: (request, reply) => {
      markPersonal(request)
      return conditional(request, reply)
    },
    private: (request, reply) => conditional(request, reply.header('cache-control', 'private')),
    authorized: conditional,
    oversized: conditional,
    'an etag of the plugin': (request, reply) => {
      markPersonal(request)
      return reply.type('text/plain').send(body)
    }
  }
  const asks = [
    {},
    { 'if-none-match': '"v1"' },
    { 'if-none-match': '"v2"' },
    { 'if-match': '"v2"' },
    { 'if-match': '"v1"' },
    { range: 'bytes=20-29' }
  ]
  for (const [kind, handler] of Object.entries(kinds)) {
    const made = await Promise.all(
      [true, false].map(async (withCache) => {
        const app = Fastify()
        t.teardown(() => app.close())
        if (kind === 'an etag of the plugin') await app.register(fastifyEtag)
        if (withCache) await app.register(flotillaCache, { redis: false, http: { maxBody: '1kb' } })
        for (const [i] of asks.entries()) app.get(`/${i}`, { config: { cache: { ttl: '1m' } } }, handler)
        return app
      })
    )
    const etag = (await made[1]!.inject('/0')).headers.etag!
    const general = kind === 'authorized' ? { authorization: 'Ada' } : {}
    for (const [i, ask] of asks.entries()) {
      const headers = Object.fromEntries(
        Object.entries({ ...general, ...ask }).map(([name, value]) => [name, value.replace('"v1"', etag)])
      )
      for (const turn of ['first', 'second', 'third']) {
        const [cached, bare] = await Promise.all(made.map((app) => app.inject({ url: `/${i}`, headers })))
        const label = `${kind}, ${turn}: ${JSON.stringify(ask)}`
        // The plugin knows If-None-Match alone; until the cache knows that nothing is stored it answers the others itself.
        if (kind === 'an etag of the plugin' && turn === 'first' && !('if-none-match' in ask)) continue
        t.equal(cached!.statusCode, bare!.statusCode, label)
        t.equal(cached!.body, bare!.body, label)
        for (const name of ['etag', 'content-range', 'last-modified'] as const) {
          t.equal(cached!.headers[name], bare!.headers[name], `${label}: ${name}`)
        }
      }
    }
  }
})

t.test('a film that is too long to be stored is played part by part', async (t) => {
  const { calls, get } = await serve(t, { ttl: '1m', maxBody: 100 }, ({ headers }, reply) => {
    void reply.type('video/mp4')
    if (headers.range === undefined) return reply.send(Readable.from(['x'.repeat(1000)]))
    return reply
      .code(206)
      .header('content-range', 'bytes 0-9/1000')
      .send(Readable.from(['0123456789']))
  })
  await get()
  for (let i = 0; i < 3; i++) {
    const { body, statusCode } = await get({ range: 'bytes=0-9' })
    t.match({ body, statusCode }, { body: '0123456789', statusCode: 206 })
  }
  t.equal(calls(), 4)
})

t.test('a write to a path of which nothing was stored leaves no key in Redis', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const go = gate()
  let version = 0
  let held = false
  const apps = await Promise.all(
    [1, 2].map(async () =>
      startApp(t, redis.url, {}, (one) => {
        one.get('/x/:id', { config: { cache: { ttl: '1m' } } }, async () => {
          const read = version
          if (held) await go.passed
          return `version ${read}`
        })
        one.put('/x/:id', () => `version ${++version}`)
      })
    )
  )
  const [first, second] = apps as [(typeof apps)[0], (typeof apps)[0]]
  const keys = async (): Promise<string[]> => first.redis.keys('*')
  const before = (await keys()).length
  for (let id = 0; id < 20; id++) await first.inject({ method: 'PUT', url: `/x/${id}` })
  t.equal((await keys()).length, before)
  for (let round = 0; round < 3; round++) {
    for (const app of apps) t.equal((await app.inject('/x/1')).body, `version ${version}`, 'stored')
    await second.inject({ method: 'PUT', url: '/x/1' })
    const wanted = `version ${version}`
    t.equal((await second.inject('/x/1')).body, wanted, 'at once on the instance of the write')
    await until(async () => (await first.inject('/x/1')).body === wanted, { message: 'and then elsewhere' })
  }
  held = true
  const slow = first.inject('/x/2')
  await until(async () => (await keys()).some((key) => key.includes('l:http')), {
    message: 'its handler runs'
  })
  await second.inject({ method: 'PUT', url: '/x/2' })
  go.open()
  await slow
  for (const app of apps)
    t.equal((await app.inject('/x/2')).body, `version ${version}`, 'a write during a fill wins')
})

t.test('variants of one URL are bounded', async (t) => {
  for (const vary of [[], ['x-a']]) {
    const { app, calls, get } = await serve(t, { ttl: '1m', vary }, (request, reply) =>
      reply.header('vary', 'x-a').send(String(request.headers['x-a']))
    )
    for (let i = 0; i < 300; i++) t.equal((await get({ 'x-a': `${i}` })).body, `${i}`)
    let stored = 0
    for (let i = 0; i < 300; i++) {
      const response = await app.inject({
        url: '/x',
        headers: { 'x-a': `${i}`, 'cache-control': 'only-if-cached' }
      })
      if (response.statusCode === 200) stored++
    }
    t.ok(stored >= 100 && stored <= 101, `${stored} are stored`)
    t.equal((await get({ 'x-a': '299' })).body, '299')
    t.equal((await get({ 'x-a': '5' })).body, '5')
    t.equal(calls(), 301, 'the others are served from the handler')
  }
})
