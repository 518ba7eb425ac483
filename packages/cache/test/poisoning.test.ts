import type { FastifyReply, FastifyRequest, LightMyRequestResponse } from 'fastify'
import t from 'tap'
import { serve } from './support/http.js'

interface Attack {
  name: string
  /** What the attacker sends first. */
  attack: { url?: string; headers?: Record<string, string>; method?: 'GET' | 'HEAD'; payload?: string }
  /** What the victim sends afterwards. Default: a plain GET of `/x`. */
  victim?: { url?: string; headers?: Record<string, string> }
  handler: (request: FastifyRequest, reply: FastifyReply) => unknown
  trustProxy?: boolean
}

const EVIL = 'evil'
/** A handler that shows a request header in its body, as the reflected input of a poisoning attack. */
const reflect =
  (name: string): Attack['handler'] =>
  (request, reply) =>
    reply.type('text/html').send(`<script src="//${String(request.headers[name] ?? 'good')}/x.js">`)

/** Attacks that put something into the cache for others ("cache poisoning"), and what the victim must not get. */
const poisoning: Attack[] = [
  {
    name: 'X-Forwarded-Host behind a trusted proxy',
    attack: { headers: { 'x-forwarded-host': EVIL } },
    handler: (request, reply) => reply.type('text/html').send(`//${request.host}/`),
    trustProxy: true
  },
  {
    name: 'X-Forwarded-Proto behind a trusted proxy',
    attack: { headers: { 'x-forwarded-proto': EVIL } },
    handler: (request, reply) => reply.type('text/html').send(`${request.protocol}://${request.host}/`),
    trustProxy: true
  },
  {
    name: 'X-Forwarded-Proto that looks like the scheme, host and path of another URL',
    attack: { url: '/x', headers: { 'x-forwarded-proto': 'http://localhost:80/x?', host: EVIL } },
    victim: { url: '/x?://evil/x' },
    handler: (request, reply) => reply.type('text/html').send(`//${request.host}/`),
    trustProxy: true
  },
  {
    name: 'Host that looks like the host and path of another URL',
    attack: { url: '/x', headers: { host: `localhost:80/x?${EVIL}` } },
    victim: { url: `/x?${EVIL}/x` },
    handler: (request, reply) => reply.type('text/html').send(`//${request.host}/`)
  },
  {
    name: 'Host',
    attack: { headers: { host: EVIL } },
    handler: (request, reply) => reply.type('text/html').send(`//${request.host}/`)
  },
  ...['x-http-method-override', 'x-http-method', 'x-method-override', 'x-original-url', 'x-rewrite-url'].map(
    (name): Attack => ({ name, attack: { headers: { [name]: EVIL } }, handler: reflect(name) })
  ),
  {
    name: 'a body on GET',
    attack: { headers: { 'content-type': 'text/plain' }, payload: EVIL },
    handler: (request, reply) =>
      reply.type('text/html').send(request.headers['content-length'] ? EVIL : 'good')
  },
  {
    name: 'a query of its own',
    attack: { url: `/x?utm_content=${EVIL}` },
    handler: (request, reply) => reply.type('text/html').send(request.url)
  },
  {
    name: 'parameter cloaking with a semicolon',
    attack: { url: `/x?a=1;a=${EVIL}` },
    victim: { url: '/x?a=1' },
    handler: (request, reply) => reply.type('text/html').send(request.url)
  },
  {
    name: 'a fragment of the path in another spelling',
    attack: { url: `/%78?${EVIL}` },
    handler: (request, reply) => reply.type('text/html').send(request.url)
  },
  {
    name: 'HEAD, whose empty body must not be stored for GET',
    attack: { method: 'HEAD' },
    handler: (request, reply) => reply.type('text/html').send(request.method === 'HEAD' ? EVIL : 'good')
  },
  {
    name: 'Range, whose part must not be stored as the whole',
    attack: { headers: { range: 'bytes=0-1' } },
    handler: (request, reply) => reply.type('text/html').send(request.headers.range ? EVIL : 'good')
  },
  {
    name: 'If-None-Match, whose 304 must not be stored',
    attack: { headers: { 'if-none-match': '*' } },
    handler: (request, reply) =>
      request.headers['if-none-match'] ? reply.code(304).send() : reply.type('text/html').send('good')
  },
  ...[400, 403, 413, 431, 500, 503].map((code): Attack => ({
    name: `an error ${code} provoked by a header (CPDoS)`,
    attack: { headers: { 'x-bad': EVIL } },
    handler: (request, reply) =>
      request.headers['x-bad'] ? reply.code(code).send(EVIL) : reply.type('text/html').send('good')
  })),
  {
    name: 'Set-Cookie: a session of the attacker for everyone',
    attack: { headers: { 'x-bad': EVIL } },
    handler: (request, reply) =>
      (request.headers['x-bad'] ? reply.header('set-cookie', `sid=${EVIL}`) : reply)
        .type('text/html')
        .send(request.headers['x-bad'] ? EVIL : 'good')
  },
  {
    name: 'Origin reflected without Vary',
    attack: { headers: { origin: `https://${EVIL}` } },
    victim: { headers: { origin: 'https://good' } },
    handler: (request, reply) =>
      reply
        .header('access-control-allow-origin', String(request.headers.origin))
        .type('text/html')
        .send('good')
  },
  {
    name: 'Accept-Encoding answered without Vary',
    attack: { headers: { 'accept-encoding': 'br' } },
    handler: (request, reply) =>
      request.headers['accept-encoding'] === 'br'
        ? reply.header('content-encoding', 'br').type('text/html').send(EVIL)
        : reply.type('text/html').send('good')
  },
  {
    name: 'a header named in Vary',
    attack: { headers: { 'x-theme': EVIL } },
    handler: (request, reply) => {
      void reply.header('vary', 'x-theme')
      return reflect('x-theme')(request, reply)
    }
  },
  {
    name: 'a line break in a selecting header',
    attack: { headers: { 'x-theme': 'a\tx-other:=b' } },
    victim: { headers: { 'x-theme': 'a', 'x-other': 'b' } },
    handler: (request, reply) => {
      void reply.header('vary', 'x-theme, x-other')
      return reply.type('text/html').send(String(request.headers['x-theme']).includes('\t') ? EVIL : 'good')
    }
  },
  {
    name: 'hop-by-hop headers',
    attack: { headers: { 'x-bad': EVIL } },
    handler: (request, reply) => {
      if (request.headers['x-bad']) void reply.header('connection', 'x-evil').header('x-evil', EVIL)
      return reply.type('text/html').send('good')
    }
  }
]

/** Attacks that get a victim's own page stored where the attacker can read it ("cache deception"). */
const deception: Attack[] = [
  ...['handler', 'before'].map((when): Attack => ({
    name: `a page of a session that is read ${when === 'handler' ? 'in the handler' : 'in a hook'}`,
    attack: { headers: { 'x-session': when } },
    handler: (request, reply) => reply.type('text/html').send(request.headers['x-session'] ? EVIL : 'good')
  })),
  {
    name: 'a page of a session at a path with a static ending',
    attack: { url: '/x?/style.css', headers: { 'x-session': 'handler' } },
    victim: { url: '/x?/style.css' },
    handler: (request, reply) => reply.type('text/html').send(request.headers['x-session'] ? EVIL : 'good')
  },
  {
    name: 'Authorization',
    attack: { headers: { authorization: 'Bearer secret' } },
    handler: (request, reply) => reply.type('text/html').send(request.headers.authorization ? EVIL : 'good')
  },
  {
    name: 'private',
    attack: { headers: { 'x-bad': EVIL } },
    handler: (request, reply) =>
      (request.headers['x-bad'] ? reply.header('cache-control', 'private') : reply)
        .type('text/html')
        .send(request.headers['x-bad'] ? EVIL : 'good')
  },
  {
    name: 'private in odd spelling',
    attack: { headers: { 'x-bad': EVIL } },
    handler: (request, reply) =>
      (request.headers['x-bad'] ? reply.header('cache-control', 'max-age=60 ,, PRIVATE ,') : reply)
        .type('text/html')
        .send(request.headers['x-bad'] ? EVIL : 'good')
  }
]

for (const [kind, attacks] of [
  ['poisoning', poisoning],
  ['deception', deception]
] as const) {
  t.test(kind, async (t) => {
    for (const { name, attack, victim = {}, handler, trustProxy = false } of attacks) {
      const { app } = await serve(t, { ttl: '1m' }, handler, {}, { trustProxy })
      const send = (request: Attack['attack']): Promise<LightMyRequestResponse> =>
        app.inject({ method: 'GET', url: '/x', ...request })
      // Twice: the first may only tell by what the response varies.
      await send(attack)
      await send(attack)
      const response = await send({ ...victim })
      const seen = `${response.statusCode} ${JSON.stringify(response.headers)} ${response.body}`
      t.notMatch(seen, /evil/, name)
      t.equal(response.statusCode, 200, name)
      if (name.startsWith('Range')) t.equal(response.body, 'good')
    }
  })
}

t.test('who may share: Authorization with public, and nobody gets what is not theirs', async (t) => {
  const { calls, get } = await serve(t, { ttl: '1m' }, (_request, reply) =>
    reply.header('cache-control', 'public, max-age=60').send('x')
  )
  await get({ authorization: 'a' })
  await get({ authorization: 'b' })
  await get()
  t.equal(calls(), 1)
  const plain = await serve(t, { ttl: '1m' }, (request) => request.headers.authorization ?? 'anonymous')
  t.equal((await plain.get()).body, 'anonymous')
  t.equal((await plain.get({ authorization: 'me' })).body, 'me')
  t.equal((await plain.get()).body, 'anonymous')
  const session = await serve(t, { ttl: '1m' }, (request) => request.headers['x-session'] ?? 'anonymous')
  t.equal((await session.get()).body, 'anonymous')
  t.equal(
    (await session.get({ 'x-session': 'before' })).body,
    'before',
    'a stored one is not shown to a session'
  )
})
