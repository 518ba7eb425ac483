/* Each clause of RFC 9111, sections 3 to 5, that binds a shared cache, and what shows that it is kept. */
import { until } from '@flotilla/testbed'
import type { FastifyInstance, LightMyRequestResponse } from 'fastify'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { parseHttpDate } from '../src/http/http-date.js'
import type { RouteCacheOptions } from '../src/index.js'
import { nextTurn, serve, type Handler, type Served } from './support/http.js'

type Headers = Record<string, string | string[]>

interface Answer {
  status?: number
  headers: Headers
  body?: unknown
}

/** A route that answers these one after another, the last one for ever; each body says which it is. */
async function answering(t: Test, answers: Answer[], route: RouteCacheOptions = {}): Promise<Served> {
  let at = 0
  const handler: Handler = (_request, reply) => {
    const { status = 200, headers, body } = answers[Math.min(at++, answers.length - 1)]!
    return reply
      .code(status)
      .headers(headers)
      .send(status === 304 ? undefined : (body ?? `answer ${at}`))
  }
  return serve(t, route, handler)
}

/** Whether the answer to a first request serves a second one. */
async function reused(
  t: Test,
  answer: Answer,
  requests: {
    first?: Record<string, string>
    second?: Record<string, string>
    route?: RouteCacheOptions
  } = {}
): Promise<boolean> {
  const { first = {}, second = first, route = {} } = requests
  const { calls, get } = await answering(t, [answer], route)
  await get(first)
  await get(second)
  return calls() === 1
}

const cc = (value: string, more: Headers = {}): Answer => ({ headers: { 'cache-control': value, ...more } })
const at = (ms: number): string => new Date(Date.now() + ms).toUTCString()
const MINUTE = 60_000
/** Stored, and stale from the start: it is older than it may be, and kept for stale-if-error. */
const stale = (more = '', headers: Headers = {}): Answer =>
  cc(`max-age=60, stale-if-error=6000${more}`, { age: '100', ...headers })
const cacheStatusOf = (response: LightMyRequestResponse): string => String(response.headers['cache-status'])

const clauses: [clause: string, what: string, check: (t: Test) => Promise<void>][] = [
  [
    '§3',
    'only what is answered to GET is stored',
    async (t) => {
      const { app, calls } = await answering(t, [cc('max-age=60')])
      for (let i = 0; i < 2; i++) await app.inject({ method: 'HEAD', url: '/x' })
      t.equal(calls(), 1, 'a GET was made for HEAD')
      for (const method of ['POST', 'PUT', 'DELETE'] as const) {
        const routes = (one: FastifyInstance): void => {
          const route = { url: '/y', config: { cache: {} }, handler: () => 1 }
          t.throws(() => one.route({ method: ['GET', method], ...route }), {
            code: 'FLOTILLA_CACHE_ERR_OPTIONS',
            message: `responses to ${method} are not stored`
          })
        }
        await serve(t, {}, () => 1, {}, { routes })
      }
    }
  ],
  [
    '§3',
    'a final status is stored if its freshness is explicit, and understood if that is demanded',
    async (t) => {
      for (const status of [206, 304])
        t.notOk(await reused(t, { ...cc('public, max-age=60'), status }), String(status))
      for (const status of [299, 400, 499, 500, 503, 599]) {
        t.ok(await reused(t, { ...cc('max-age=60'), status }), String(status))
        t.notOk(
          await reused(t, { ...cc('max-age=60, must-understand'), status }),
          `${status}, must-understand`
        )
      }
    }
  ],
  [
    '§3',
    'stored only with public, Expires, max-age, s-maxage, a heuristic, or the word of the route',
    async (t) => {
      t.notOk(await reused(t, { headers: {} }))
      t.notOk(await reused(t, { headers: {}, status: 302 }, { route: { ttl: '1m' } }))
      t.ok(await reused(t, cc('s-maxage=60')))
      t.ok(await reused(t, cc('max-age=60')))
      t.ok(await reused(t, { headers: { expires: at(MINUTE) } }))
      t.ok(await reused(t, { headers: { 'last-modified': at(-1000 * MINUTE) } }))
      t.ok(await reused(t, { headers: {} }, { route: { ttl: '1m' } }))
    }
  ],
  [
    '§3.1',
    'all header fields are stored, unknown ones too, but those of one connection or proxy',
    async (t) => {
      const { get } = await answering(t, [
        cc('max-age=60', {
          'x-unknown': ['a', 'b'],
          connection: 'x-hop',
          'x-hop': '1',
          'keep-alive': 'timeout=5',
          'proxy-authenticate': 'Basic',
          'proxy-authentication-info': 'x',
          'proxy-authorization': 'x'
        })
      ])
      await get()
      const { headers } = await get()
      t.same(headers['x-unknown'], ['a', 'b'])
      for (const name of [
        'x-hop',
        'keep-alive',
        'proxy-authenticate',
        'proxy-authentication-info',
        'proxy-authorization'
      ]) {
        t.equal(headers[name], undefined, name)
      }
    }
  ],
  [
    '§3.2, §4.3.4',
    'a 304 replaces stored fields and adds new ones, but not what describes the body',
    async (t) => {
      const { calls, get } = await answering(t, [
        { ...stale('', { etag: '"v1"', 'x-a': '1', 'x-b': '1', 'content-type': 'text/plain' }), body: 'v1' },
        {
          status: 304,
          ...cc('max-age=600', {
            etag: '"v1"',
            'x-a': '2',
            'x-c': '2',
            'content-type': 'image/png',
            'content-encoding': 'br',
            'content-range': 'bytes 0-0/9',
            'content-length': '999'
          })
        }
      ])
      await get()
      await get()
      const { body, headers, statusCode } = await get()
      t.equal(calls(), 2, 'fresh again')
      t.equal(statusCode, 200)
      t.equal(body, 'v1')
      t.match(headers, { 'x-a': '2', 'x-b': '1', 'x-c': '2', 'cache-control': 'max-age=600' })
      t.match(headers, { 'content-type': 'text/plain', 'content-length': '2', etag: '"v1"' })
      t.equal(headers['content-encoding'], undefined)
      t.equal(headers['content-range'], undefined)
    }
  ],
  [
    '§3.3',
    'what was cut off, and a part, are not stored as the whole',
    async (t) => {
      const handler: Handler = (_request, reply) =>
        reply.headers({ 'cache-control': 'max-age=60', 'content-length': '9' }).send(Readable.from(['cut']))
      const { calls, get } = await serve(t, {}, handler)
      for (let i = 0; i < 2; i++) await get().catch(() => undefined)
      t.equal(calls(), 2)
      t.notOk(await reused(t, { ...cc('max-age=60', { 'content-range': 'bytes 0-1/9' }), status: 206 }))
      // Elsewhere the field has no meaning (RFC 9110 §14.4).
      t.ok(await reused(t, { ...cc('max-age=60', { 'content-range': 'bytes 0-1/9' }), status: 200 }))
    }
  ],
  [
    '§3.5',
    'a response to Authorization is shared only by must-revalidate, public or s-maxage',
    async (t) => {
      const first = { authorization: 'Basic x' }
      for (const second of [first, {}]) {
        t.notOk(await reused(t, cc('max-age=60'), { first, second }))
        for (const word of ['must-revalidate', 'public', 's-maxage=60']) {
          t.ok(await reused(t, cc(`max-age=60, ${word}`), { first, second }), word)
        }
      }
      const second = first
      t.notOk(await reused(t, cc('max-age=60'), { first: {}, second }), 'nor is another used for it')
    }
  ],
  [
    '§4',
    'the target URI matches: scheme, host, path and query',
    async (t) => {
      const { calls, get } = await answering(t, [cc('max-age=60')])
      for (const [headers, url] of [
        [{}, '/x'],
        [{}, '/x?a=1'],
        [{}, '/x?a=2'],
        [{ host: 'other' }, '/x']
      ] as const) {
        const before = calls()
        await get(headers, url)
        await get(headers, url)
        t.equal(calls(), before + 1, `${JSON.stringify(headers)} ${url}`)
      }
      const secured = await serve(
        t,
        { ttl: '1m' },
        ({ protocol, host, url }, reply) =>
          protocol === 'https' ? 'secure' : reply.redirect(`https://${host}${url}`, 301),
        {},
        { trustProxy: true }
      )
      for (let i = 0; i < 2; i++) {
        const plain = await secured.get({ 'x-forwarded-proto': 'http' })
        t.equal(plain.headers.location, 'https://localhost:80/x')
        t.equal((await secured.get({ 'x-forwarded-proto': 'https' })).body, 'secure')
      }
      t.equal(secured.calls(), 2)
      await secured.app.inject({ method: 'POST', url: '/x', headers: { 'x-forwarded-proto': 'https' } })
      await secured.get({ 'x-forwarded-proto': 'http' })
      t.equal(secured.calls(), 3, 'an unsafe request invalidates the path, whatever the scheme')
    }
  ],
  [
    '§4',
    'Age is made anew at each use; unsafe methods always reach the handler',
    async (t) => {
      const { app, get } = await answering(t, [cc('max-age=60', { age: '7' })])
      await get()
      t.match((await get()).headers, { age: /^(7|8)$/ })
      t.equal((await app.inject({ method: 'POST', url: '/x' })).body, 'done')
    }
  ],
  [
    '§4.1',
    'selecting fields match: absent only absent, white space aside; "*" never',
    async (t) => {
      const varies = cc('max-age=60', { vary: 'X-A, x-b' })
      const first = { 'x-a': '1', 'x-b': '2' }
      const again = async (second: Record<string, string>): Promise<boolean> => {
        const { calls, get } = await answering(t, [varies], { vary: ['x-a', 'x-b'] })
        await get(first)
        await get(second)
        return calls() === 1
      }
      t.ok(await again(first))
      t.ok(await again({ 'x-a': ' 1 ', 'x-b': '2' }))
      t.notOk(await again({ 'x-a': '1' }))
      t.notOk(await again({ 'x-a': '1', 'x-b': '' }))
      t.notOk(await again({ 'x-a': '2', 'x-b': '2' }))
      t.notOk(await again({}))
      t.notOk(await reused(t, cc('max-age=60', { vary: 'x-a, *' })))
    }
  ],
  [
    '§4.1',
    'a response that forgets its Vary is chosen by the last one that had it',
    async (t) => {
      const { get } = await serve(t, { ttl: '1m' }, (request, reply) => {
        if (request.headers['x-a'] === '1') void reply.header('vary', 'x-a')
        return `for ${String(request.headers['x-a'])}`
      })
      for (const value of ['1', '2', '3', '1', '2', '3']) {
        t.equal((await get({ 'x-a': value })).body, `for ${value}`)
      }
    }
  ],
  [
    '§4.2',
    'dates: three forms, any case, never the local time zone; another zone or form is no date',
    async (t) => {
      const time = Date.UTC(1994, 10, 6, 8, 49, 37)
      for (const text of [
        'Sun, 06 Nov 1994 08:49:37 GMT',
        'sun, 06 nov 1994 08:49:37 gmt',
        'Sunday, 06-Nov-94 08:49:37 GMT',
        'Sun Nov  6 08:49:37 1994'
      ]) {
        t.equal(parseHttpDate(text), time, text)
      }
      t.equal(parseHttpDate('Sunday, 06-Nov-30 08:49:37 GMT'), Date.UTC(2030, 10, 6, 8, 49, 37))
      for (const text of [
        'Sun, 06 Nov 2094 08:49:37 EST',
        'Sun, 06 Nov 2094 08:49:37 +0000',
        'Sun, 31 Feb 2094 08:49:37 GMT',
        'Sun, 06 Nov 2094 24:00:00 GMT',
        'Sun, 06 Foo 2094 08:49:37 GMT',
        '2094-11-06T08:49:37Z',
        '2094',
        ''
      ]) {
        t.equal(parseHttpDate(text), undefined, text)
        t.notOk(await reused(t, { headers: { expires: text } }), `Expires: ${text}`)
      }
    }
  ],
  [
    '§4.2.1',
    'lifetime: s-maxage, then max-age, then Expires less Date; unreadable ones and the most restrictive count',
    async (t) => {
      const cases: [Headers, boolean][] = [
        [{ 'cache-control': 's-maxage=60, max-age=0', expires: at(-MINUTE) }, true],
        [{ 'cache-control': 's-maxage=0, max-age=60', expires: at(MINUTE) }, false],
        [{ 'cache-control': 'max-age=60', expires: at(-MINUTE) }, true],
        [{ 'cache-control': 'max-age=0', expires: at(MINUTE) }, false],
        [{ expires: at(MINUTE), date: at(0) }, true],
        [{ expires: at(MINUTE), date: at(-MINUTE) }, true],
        [{ expires: at(-MINUTE), date: at(-2 * MINUTE) }, false],
        [{ expires: [at(MINUTE), at(2 * MINUTE)] }, false],
        [{ 'cache-control': 'max-age=60, max-age=0' }, true],
        [{ 'cache-control': 'max-age=1.5' }, false],
        [{ 'cache-control': 'max-age=-1' }, false],
        [{ 'cache-control': 'max-age' }, false],
        [{ 'cache-control': 'max-age=60, no-cache' }, false],
        [{ 'cache-control': `max-age=${'9'.repeat(30)}` }, true]
      ]
      for (const [headers, fresh] of cases) {
        t.equal(await reused(t, { headers }), fresh, JSON.stringify(headers))
      }
    }
  ],
  [
    '§4.2.2',
    'a heuristic is used only where nothing explicit is there and the status allows it: a tenth, a day at most',
    async (t) => {
      const modified = { 'last-modified': at(-1000 * MINUTE) }
      t.notOk(await reused(t, cc('max-age=0', modified)))
      t.notOk(await reused(t, { headers: { ...modified, expires: '0' } }))
      t.notOk(await reused(t, { headers: modified, status: 302 }))
      t.notOk(await reused(t, { headers: { 'last-modified': at(MINUTE) } }), 'changed in the future')
      for (const [minutes, ttl] of [
        [1000, /ttl=(5999|6000);/],
        [1e6, /ttl=(86399|86400);/]
      ] as const) {
        const { get } = await answering(t, [{ headers: { 'last-modified': at(-minutes * MINUTE) } }])
        t.match(cacheStatusOf(await get()), ttl)
      }
    }
  ],
  [
    '§4.2.3, §5.1',
    'age: what Age says and how long the answer took, or since Date, whichever is more',
    async (t) => {
      t.ok(await reused(t, cc('max-age=60', { age: '30' })))
      t.notOk(await reused(t, cc('max-age=60', { age: '60' })))
      t.ok(await reused(t, cc('max-age=60', { date: at(-MINUTE / 2) })))
      t.notOk(await reused(t, cc('max-age=60', { date: at(-MINUTE) })))
      t.notOk(await reused(t, cc('max-age=60', { date: at(-MINUTE), age: '1' })))
      t.ok(await reused(t, cc('max-age=60', { date: at(MINUTE) })), 'a clock that is ahead')
      t.notOk(await reused(t, { headers: { date: at(-10 * MINUTE), expires: at(-1000) } }), 'long expired')
      for (const age of ['old', '-1', '1.5', '1, 99', '0, old', 'old, 99']) {
        t.ok(await reused(t, cc('max-age=60', { age })), `Age: ${age}`)
      }
      t.notOk(await reused(t, cc('max-age=60', { age: '99, 1' })), 'the first of a list')
      t.ok(await reused(t, cc('max-age=60', { age: ['1', '99'] })), 'the first of two lines')
      const { calls, get } = await serve(t, {}, async (_request, reply) => {
        // How long the answer takes is what is looked at: with it, it is 60 s old on arrival.
        await new Promise((resolve) => setTimeout(resolve, 1_050))
        return reply.headers({ 'cache-control': 'max-age=60', age: '59' }).send('x')
      })
      await get()
      await get()
      t.equal(calls(), 2)
    }
  ],
  [
    '§4.2.4',
    'a stale response is not served unless somebody allows it, and never against must-revalidate, proxy-revalidate, s-maxage',
    async (t) => {
      t.notOk(await reused(t, stale()))
      t.ok(await reused(t, stale(), { second: { 'cache-control': 'max-stale' } }), 'the client')
      const allowed = await answering(t, [stale(', stale-while-revalidate=6000')])
      await allowed.get()
      t.equal((await allowed.get()).body, 'answer 1', 'the origin')
      for (const word of ['must-revalidate', 'proxy-revalidate']) {
        const kept = stale(`, stale-while-revalidate=6000, ${word}`, { etag: '"v"' })
        t.notOk(await reused(t, kept), word)
        t.notOk(await reused(t, kept, { second: { 'cache-control': 'max-stale' } }), word)
      }
      const shared = cc('s-maxage=60', { age: '100', etag: '"v"' })
      t.notOk(await reused(t, shared, { route: { swr: '1h', grace: '1h' } }), 's-maxage before the route')
      t.notOk(await reused(t, shared, { second: { 'cache-control': 'max-stale' } }))
    }
  ],
  [
    '§4.3.1',
    'the handler is asked with the stored ETag and Last-Modified, and not with what the client asked',
    async (t) => {
      const seen: unknown[] = []
      const modified = at(-MINUTE)
      const { get } = await serve(t, {}, (request, reply) => {
        const { 'if-none-match': etag, 'if-modified-since': since, range } = request.headers
        seen.push([etag, since, range])
        return reply.headers({ ...stale('', { etag: '"v1"', 'last-modified': modified }).headers }).send('v1')
      })
      const asks = { 'if-none-match': '"mine"', 'if-modified-since': at(0), range: 'bytes=0-0' }
      await get(asks)
      await get(asks)
      t.same(seen, [
        [undefined, undefined, undefined],
        ['"v1"', modified, undefined]
      ])
    }
  ],
  [
    '§4.3.2',
    'conditions of a request are judged by what is stored, If-None-Match before If-Modified-Since',
    async (t) => {
      const modified = at(-10 * MINUTE)
      const made = at(-5000)
      const full = cc('max-age=60', { etag: 'W/"v1"', 'last-modified': modified, date: made })
      const dated = cc('max-age=60', { etag: '"v1"', date: made })
      const cases: [Answer, Record<string, string>, number][] = [
        [full, { 'if-none-match': '"v1"' }, 304],
        [full, { 'if-none-match': '"v0", W/"v1"' }, 304],
        [full, { 'if-none-match': '*' }, 304],
        [full, { 'if-none-match': '"v0"', 'if-modified-since': modified }, 200],
        [full, { 'if-modified-since': modified }, 304],
        [full, { 'if-modified-since': at(-11 * MINUTE) }, 200],
        [full, { 'if-modified-since': '2094' }, 200],
        [dated, { 'if-modified-since': at(0) }, 304],
        [dated, { 'if-modified-since': at(-MINUTE) }, 200],
        [full, { 'if-match': '"v0"' }, 200],
        [full, { 'if-unmodified-since': at(-11 * MINUTE) }, 200]
      ]
      for (const [answer, asks, status] of cases) {
        const { calls, get } = await answering(t, [answer])
        await get()
        const { headers, statusCode } = await get(asks)
        t.equal(statusCode, status, JSON.stringify(asks))
        t.equal(headers.etag, answer.headers['etag'])
        t.equal(calls(), 1)
      }
    }
  ],
  [
    '§4.3.2',
    'a client whose copy is another gets 200 where 304 confirms ours',
    async (t) => {
      const { get } = await answering(t, [
        { ...stale('', { etag: '"v1"' }), body: 'v1' },
        { ...cc('max-age=60', { etag: '"v1"' }), status: 304 }
      ])
      await get()
      const response = await get({ 'if-none-match': '"v0"' })
      t.equal(response.statusCode, 200)
      t.equal(response.body, 'v1')
    }
  ],
  [
    '§4.3.3',
    'a full response replaces what is stored; a 5xx is passed on, or the stored one sent where that is allowed',
    async (t) => {
      const { get } = await answering(t, [
        { ...stale('', { etag: '"v1"' }), body: 'v1' },
        { headers: {}, status: 503, body: 'down' },
        { ...cc('max-age=60', { etag: '"v2"' }), body: 'v2' }
      ])
      t.equal((await get()).body, 'v1')
      const held = await get()
      t.equal(held.statusCode, 200)
      t.equal(held.body, 'v1', 'stale-if-error')
      const strict = await answering(
        t,
        [
          { ...cc('must-revalidate', { etag: '"v1"' }), body: 'v1' },
          { headers: {}, status: 503, body: 'down' },
          { ...cc('max-age=60', { etag: '"v2"' }), body: 'v2' }
        ],
        { ttl: 30, grace: '1h' }
      )
      t.equal((await strict.get()).body, 'v1')
      const after = await until(
        async () => {
          const response = await strict.get()
          return response.body === 'v1' ? undefined : response
        },
        { message: 'no longer fresh' }
      )
      t.equal(after.statusCode, 503)
      t.equal((await strict.get()).body, 'v2')
    }
  ],
  [
    '§4.3.4',
    'a 304 about another validator updates nothing',
    async (t) => {
      for (const [own, theirs, confirmed] of [
        ['"v1"', '"v1"', true],
        ['"v1"', '"v2"', false],
        ['W/"v1"', '"v1"', false],
        ['W/"v1"', 'W/"v1"', true],
        ['"v1"', undefined, true]
      ] as const) {
        const { calls, get } = await answering(t, [
          { ...stale('', { etag: own }), body: 'v1' },
          { ...cc('max-age=600', theirs ? { etag: theirs } : {}), status: 304 },
          { ...cc('max-age=600', { etag: '"v3"' }), body: 'v3' }
        ])
        await get()
        t.equal((await get()).body, 'v1', `${own} ${theirs}`)
        t.equal((await get()).body, confirmed ? 'v1' : 'v3', `${own} ${theirs}`)
        t.equal(calls(), confirmed ? 2 : 3)
      }
    }
  ],
  [
    '§4.3.4',
    'a 304 that says nothing of freshness: what gave the response its lifetime and its tags still does',
    async (t) => {
      const etag = '"v1"'
      const once: [string, RouteCacheOptions, Headers][] = [
        ['the route', { ttl: '1m', grace: '1h' }, {}],
        ['the handler', { grace: '1h' }, {}],
        ['the response', {}, { 'cache-control': 'max-age=60, stale-if-error=6000' }],
        ['the response, to us alone', {}, { 'flotilla-cache-control': 'max-age=60, stale-if-error=6000' }]
      ]
      for (const [who, route, headers] of once) {
        const { app, calls, get } = await serve(t, route, (request, reply) => {
          if (request.headers['if-none-match'] === etag) {
            return reply.code(304).headers({ etag, 'cache-tag': 'named-later' }).send()
          }
          request.cacheFill?.tags('named-by-handler')
          if (who === 'the handler') request.cacheFill?.ttl('1m')
          return reply.headers({ etag, age: '100', 'cache-tag': 'named', ...headers }).send('v1')
        })
        const answered = async (): Promise<unknown> => {
          await nextTurn()
          const { statusCode, body, headers: sent } = await get()
          return [statusCode, body, sent['cache-control'], sent['flotilla-cache-control'], sent['cache-tag']]
        }
        const control = headers['cache-control'] ?? 'public, max-age=0, must-revalidate'
        const expected = [200, 'v1', control, undefined, undefined]
        for (const [i, tag] of ['named', 'named-by-handler', 'named-later'].entries()) {
          t.same(await answered(), expected, `${who}: stale from the start`)
          t.same(await answered(), expected, `${who}: confirmed`)
          t.same(await answered(), expected, `${who}: fresh`)
          t.equal(calls(), 2 * (i + 1), who)
          await app.cache.invalidateTags([tag])
        }
        await answered()
        t.equal(calls(), 7, `${who}: invalidated`)
      }
    }
  ],
  [
    '§4.3.5',
    'a HEAD whose validators are others makes the stored response stale',
    async (t) => {
      const { app, get } = await answering(t, [
        { ...cc('max-age=60', { etag: '"v1"' }), body: 'v1' },
        { ...cc('max-age=60', { etag: '"v2"' }), body: 'v2' }
      ])
      const head = { method: 'HEAD', url: '/x', headers: { 'cache-control': 'no-cache' } } as const
      t.equal((await get()).body, 'v1')
      t.equal((await app.inject(head)).headers.etag, '"v2"')
      t.equal((await get()).body, 'v2')
      await app.inject(head)
      t.match(cacheStatusOf(await get()), /hit/, 'the same validators change nothing')
    }
  ],
  [
    '§4.4',
    'an unsafe request that is no error invalidates its target, Location and Content-Location of the same origin',
    async (t) => {
      let location: Headers = {}
      let status = 200
      const { app, calls, get } = await answering(t, [cc('max-age=60')], {})
      const changed = async (url: string): Promise<boolean> => {
        const before = calls()
        await get()
        await app.inject({ method: 'POST', url })
        await get()
        return calls() - before > (before === 0 ? 1 : 0)
      }
      t.ok(await changed('/x'))
      t.ok(await changed('/other'), 'Location')
      t.notOk(await changed('/failing'), 'an error')
      const one = await serveChanging(t, () => [status, location])
      for (const [code, headers, invalidates] of [
        [200, { 'content-location': '/x' }, true],
        [303, { location: 'http://localhost:80/x' }, true],
        [200, { location: 'http://elsewhere/x' }, false],
        [404, { location: '/x' }, false],
        [500, { location: '/x' }, false]
      ] as const) {
        ;[status, location] = [code, headers]
        await one.get()
        const before = one.calls()
        await one.app.inject({ method: 'PUT', url: '/change' })
        await one.get()
        t.equal(one.calls() > before, invalidates, `${code} ${JSON.stringify(headers)}`)
      }
    }
  ],
  [
    '§5.2.1',
    'what a request asks: max-age, max-stale, min-fresh, no-cache, no-store, only-if-cached',
    async (t) => {
      const fresh = cc('max-age=60', { age: '30' })
      const old = stale('', { etag: '"v"' })
      const cases: [Answer, string, boolean][] = [
        [fresh, 'max-age=40', true],
        [fresh, 'max-age=20', false],
        [fresh, 'max-age=0', false],
        [fresh, 'max-age=soon', false],
        [old, 'max-age=1000', false],
        [old, 'max-age=1000, max-stale=60', true],
        [old, 'max-stale', true],
        [old, 'max-stale=60', true],
        [old, 'max-stale=30', false],
        [fresh, 'min-fresh=20', true],
        [fresh, 'min-fresh=40', false],
        [fresh, 'no-cache', false],
        [fresh, 'NO-CACHE', false],
        [fresh, 'no-store', false],
        [fresh, 'no-transform', true],
        [fresh, 'only-if-cached', true],
        [fresh, 'unheard-of=1', true]
      ]
      for (const [answer, ask, expected] of cases) {
        t.equal(await reused(t, answer, { second: { 'cache-control': ask } }), expected, ask)
      }
      const kept = await answering(t, [fresh])
      await kept.get({ 'cache-control': 'no-store' })
      await kept.get()
      t.equal(kept.calls(), 2, 'no-store is not stored')
      t.equal((await kept.get({ 'cache-control': 'only-if-cached, max-age=1' })).statusCode, 504)
      t.equal((await kept.get({ 'cache-control': 'only-if-cached' }, '/x?else')).statusCode, 504)
      t.equal(kept.calls(), 2)
    }
  ],
  [
    '§5.2.2',
    'what a response says',
    async (t) => {
      const cases: [string, boolean, number?][] = [
        ['max-age=60', true],
        ['MAX-AGE=60', true],
        ['max-age="60"', true],
        ['max-age=60, must-revalidate', true],
        ['no-store, must-understand, max-age=60', true],
        ['no-store, must-understand, max-age=60', false, 299],
        ['max-age=60, no-cache', false],
        ['max-age=60, no-store', false],
        ['max-age=60, no-transform', true],
        ['max-age=60, private', false],
        ['max-age=60, proxy-revalidate', true],
        ['public, max-age=60', true],
        ['s-maxage=60', true]
      ]
      for (const [value, expected, status = 200] of cases) {
        t.equal(await reused(t, { ...cc(value), status }), expected, `${status} ${value}`)
      }
    }
  ],
  [
    '§5.2.2.4, §5.2.2.7',
    'fields named by no-cache and private are left out of what is stored, whatever their case',
    async (t) => {
      for (const word of ['no-cache', 'private']) {
        const { calls, get } = await answering(t, [
          cc(`max-age=60, ${word}="X-Mine, x-other"`, { 'x-mine': '1', 'X-Other': '1', 'x-all': '1' })
        ])
        t.match((await get()).headers, { 'x-mine': '1', 'x-all': '1' })
        const { headers } = await get()
        t.equal(calls(), 1)
        t.match(headers, { 'x-mine': undefined, 'x-other': undefined, 'x-all': '1' }, word)
      }
    }
  ],
  [
    '§5.2.3',
    'directives that are not known are ignored',
    async (t) => {
      t.ok(await reused(t, cc('max-age=60, community="UCI, x", foo=bar, private-ish')))
      t.notOk(await reused(t, cc('private, community="UCI", max-age=60')))
    }
  ],
  [
    '§5.4',
    'Pragma: no-cache counts where there is no Cache-Control',
    async (t) => {
      t.notOk(await reused(t, cc('max-age=60'), { second: { pragma: 'no-cache' } }))
      const second = { pragma: 'no-cache', 'cache-control': 'max-age=50' }
      t.ok(await reused(t, cc('max-age=60'), { second }))
    }
  ]
]

/** A cached route, and one that changes things and answers as it is told. */
async function serveChanging(t: Test, answer: () => [number, Headers]): Promise<Served> {
  const routes = (app: FastifyInstance): void => {
    app.put('/change', (_request, reply) => {
      const [status, headers] = answer()
      return reply.code(status).headers(headers).send('changed')
    })
  }
  return serve(t, { ttl: '1m' }, () => 'x', {}, { routes })
}

for (const [clause, what, check] of clauses) t.test(`${clause}: ${what}`, check)
