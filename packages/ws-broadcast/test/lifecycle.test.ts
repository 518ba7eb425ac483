import { EventEmitter } from 'node:events'
import websocket from '@fastify/websocket'
import { flotillaRedis } from '@flotilla/redis'
import { startRedis, until } from '@flotilla/testbed'
import Fastify, { type FastifyInstance } from 'fastify'
import { test } from 'tap'
import { WebSocket } from 'ws'
import { createPublisher } from '../src/publisher.js'
import { flotillaBroadcast, type ConnectionFilter } from '../src/index.js'
import { RawClient, refusal, startTestApp } from './app.js'

/** A session as another plugin would leave it on the request. */
function withSession(app: FastifyInstance): void {
  app.decorateRequest('session')
  app.addHook('onRequest', async (request) => {
    const { user, ref } = request.query as { user?: string; ref?: string }
    ;(request as unknown as { session: object }).session = { userId: user, ref }
  })
}

test('life of connections', async (parent) => {
  const redis = await startRedis()
  parent.teardown(() => redis.stop())

  await parent.test('Origin, login and numbers are checked while it is still HTTP', async (t) => {
    const server = await startTestApp(t, redis.url, {
      maxConnections: 2,
      authenticate: (request) => {
        const { user } = request.query as { user?: string }
        if (user === 'error') throw new Error('no session store')
        return user === undefined ? null : { userId: user }
      }
    })
    const ws = `${server.ws}?user=ann`
    t.equal(await refusal(ws, { origin: 'https://evil.example' }), 403)
    t.equal(await refusal(ws, { origin: 'null' }), 403)
    t.equal(await refusal(ws, { origin: server.url }), 101)
    t.equal(await refusal(server.ws), 4401)
    t.equal((await fetch(`${server.url}/ws?user=ann`)).status, 404, 'a plain GET')
    t.equal(await refusal(`${server.ws}?user=error`), 500)
    await until(() => server.app.broadcast.stats().connections === 0)
    const two = [await RawClient.open(t, ws), await RawClient.open(t, ws)]
    t.equal(two.length, 2)
    t.equal(await refusal(ws), 503)
    const listed = await startTestApp(t, redis.url, { origins: ['https://app.example.org'] })
    t.equal(await refusal(listed.ws, { origin: 'https://app.example.org' }), 101)
    t.equal(await refusal(listed.ws, { origin: listed.url }), 403)
  })

  await parent.test('authorize is asked for each channel and action', async (t) => {
    const asked: string[] = []
    const server = await startTestApp(t, redis.url, {
      authorize: async (request, channel, action) => {
        asked.push(`${(request.query as { user: string }).user} ${action} ${channel}`)
        return channel !== 'room:secret' && action !== 'publish'
      }
    })
    const client = await RawClient.open(t, `${server.ws}?user=ann`)
    await client.subscribe('room:1')
    client.send({ type: 'subscribe', id: 1, channel: 'room:secret' })
    client.send({ type: 'publish', id: 2, channel: 'room:1', data: 1 })
    client.send({ type: 'presence', id: 3, channel: 'room:1' })
    await client.next('presence')
    t.same(
      client
        .of('error')
        .map(({ id, code }) => [id, code])
        .toSorted(([a], [b]) => Number(a) - Number(b)),
      [
        [1, 'forbidden'],
        [2, 'forbidden']
      ]
    )
    t.same(
      asked.toSorted(),
      [
        'ann presence room:1',
        'ann presence room:1',
        'ann publish room:1',
        'ann subscribe room:1',
        'ann subscribe room:secret'
      ],
      'whether it sees who is there: for the events of its subscription, and for the list'
    )
  })

  await parent.test('who may not see who is there gets no events of presence either', async (t) => {
    const server = await startTestApp(
      t,
      redis.url,
      {
        ssePath: '/events',
        authorize: async (request, _channel, action) =>
          action !== 'presence' || (request.query as { user?: string }).user === 'ann'
      },
      async (app) => {
        await app.register(websocket)
        app.get('/own', { websocket: true }, (socket, request) => {
          app.broadcast.attach(socket, request, { channels: ['room:1'] })
        })
      }
    )
    const stop = new AbortController()
    t.teardown(() => stop.abort())
    const events = await fetch(`${server.url}/events?channels=room:1`, { signal: stop.signal })
    let read = ''
    const reading = (async () => {
      for await (const chunk of events.body!) read += Buffer.from(chunk as Uint8Array).toString()
    })().catch(() => undefined)
    const ann = await RawClient.open(t, `${server.ws}?user=ann`)
    await ann.subscribe('room:1')
    const attached = await RawClient.open(t, server.ws.replace(/ws$/, 'own'))
    await attached.next('subscribed')
    const bob = await RawClient.open(t, `${server.ws}?user=bob`)
    await bob.subscribe('room:1')
    const eve = await RawClient.open(t, `${server.ws}?user=eve`)
    await eve.subscribe('room:1')
    const { connection } = eve.of('welcome')[0]!
    await until(() => ann.of('join').some(({ member }) => member.id === connection))
    eve.ws.terminate()
    await until(() => ann.of('leave').some(({ member }) => member.id === connection))
    await server.app.broadcast.publish('room:1', 'afterwards')
    for (const client of [ann, bob, attached]) await client.count(1)
    await until(() => read.includes('afterwards'))
    for (const client of [bob, attached]) t.same([client.of('join'), client.of('leave')], [[], []])
    t.notMatch(read, /"(join|leave)"/)
    stop.abort()
    await reading
  })

  await parent.test(
    'a revoked session loses its sockets on every instance, and nobody else does',
    async (t) => {
      const [a, b] = [
        await startTestApp(t, redis.url, {}, withSession),
        await startTestApp(t, redis.url, {}, withSession)
      ]
      await Promise.all([a, b].map(({ app }) => app.bus.ready()))
      const revoked = [
        await RawClient.open(t, `${a.ws}?user=ann&ref=r1`),
        await RawClient.open(t, `${b.ws}?user=ann&ref=r1`)
      ]
      const other = await RawClient.open(t, `${b.ws}?user=ann&ref=r2`)
      const stranger = await RawClient.open(t, b.ws)
      await a.app.bus.publish('session.revoked', { refs: ['r1'], userId: 'ann' })
      await until(() => revoked.every(({ closed }) => closed))
      t.same(
        revoked.map(({ closed }) => closed!.code),
        [4401, 4401]
      )
      const late = new WebSocket(`${b.ws}?user=ann&ref=r1`)
      t.teardown(() => late.terminate())
      t.equal(
        await new Promise((resolve) => late.on('close', resolve)),
        4401,
        'one that was being opened meanwhile'
      )
      t.same([other.closed, stranger.closed], [undefined, undefined])
      await a.app.broadcast.disconnect({ userId: 'ann' })
      await until(() => other.closed)
      t.equal(other.closed!.code, 4403)
      t.equal(stranger.closed, undefined)
      await t.rejects(a.app.broadcast.disconnect({}), TypeError)
      for (const code of [999, 1001, 1012, 2999, 5000, 4000.5]) {
        await t.rejects(a.app.broadcast.disconnect({ userId: 'nobody' }, { code }), {
          code: 'FLOTILLA_WS_ERR_CLOSE_CODE'
        })
      }
      for (const payload of [null, 7, {}, { refs: 'r2' }, { refs: [null] }]) {
        await a.app.bus.publish('session.revoked', payload)
        await a.app.bus.publish('ws.disconnect', payload)
      }
      stranger.send({ type: 'ping', id: 'still here' })
      await stranger.next('pong')
    }
  )

  await parent.test('identities are asked again when the bus may have missed a revocation', async (t) => {
    const good = new Set(['ann', 'bob'])
    const server = await startTestApp(
      t,
      redis.url,
      {
        authenticate: (request) => {
          const { user = '' } = request.query as { user?: string }
          return good.has(user) ? { userId: user } : null
        }
      },
      async (app) => {
        await app.register(websocket)
        app.get('/own', { websocket: true }, (socket, request) => {
          app.broadcast.attach(socket, request, { identity: { userId: 'own' } })
        })
        app.get('/nobody', { websocket: true }, (socket, request) => {
          app.broadcast.attach(socket, request)
        })
      }
    )
    // What an own route lets in is the route's to check.
    const own = await Promise.all(
      ['own', 'nobody'].map((path) => RawClient.open(t, server.ws.replace(/ws$/, path)))
    )
    const [ann, bob] = [
      await RawClient.open(t, `${server.ws}?user=ann`),
      await RawClient.open(t, `${server.ws}?user=bob`)
    ]
    await server.app.bus.ready()
    good.delete('ann')
    await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await until(() => ann.closed)
    t.equal(ann.closed!.code, 4401)
    // Asked in the order in which they came, and told in the order in which it was asked.
    for (const client of [...own, bob]) {
      client.send({ type: 'ping', id: 'still here' })
      await until(() => client.closed ?? client.of('pong').length > 0)
      t.equal(client.closed, undefined)
    }
  })

  await parent.test('who does not answer a ping is ended; who does is not', async (t) => {
    const server = await startTestApp(t, redis.url, { ping: { interval: 200, timeout: 200 } })
    const alive = await RawClient.open(t, server.ws)
    const silent = await RawClient.open(t, server.ws, { autoPong: false })
    await until(() => silent.closed, { message: 'the silent one is closed' })
    await alive.next('ping')
    t.equal(alive.closed, undefined)
    t.equal(server.app.broadcast.stats().connections, 1)
  })

  await parent.test('attach: a socket of an own route', async (t) => {
    const server = await startTestApp(t, redis.url, { path: false }, async (app) => {
      await app.register(websocket)
      app.get('/own', { websocket: true }, (socket, request) => {
        t.throws(() => app.broadcast.attach(socket, request, { identity: { userId: 17 } as never }), {
          code: 'FLOTILLA_WS_ERR_OPTION'
        })
        t.throws(() => app.broadcast.attach(socket, request, { identity: 'me' as never }), {
          code: 'FLOTILLA_WS_ERR_OPTION'
        })
        app.broadcast.attach(socket, request, { channels: ['news'], identity: { userId: 'me' } })
        t.throws(() => app.broadcast.attach(socket, request), { code: 'FLOTILLA_WS_ERR_ATTACHED' })
      })
    })
    const client = await RawClient.open(t, `${server.url.replace('http', 'ws')}/own`)
    await client.next('subscribed')
    await server.app.broadcast.publish('news', 1, { consistency: 'token-1' })
    await client.count(1)
    t.equal(client.of('message')[0]!.token, 'token-1')
    t.equal(server.app.broadcast.stats().connections, 1)
    await server.app.broadcast.disconnect({ userId: 'me' })
    await until(() => client.closed)
    for (const filter of [{}, { userId: 17 }, { userId: 'me', ref: null }]) {
      await t.rejects(server.app.broadcast.disconnect(filter as ConnectionFilter), TypeError)
    }
  })

  await parent.test(
    'close sends everyone away with 1012 and a delay of their own, and ends who is silent',
    async (t) => {
      const server = await startTestApp(t, redis.url, { drain: { spread: 300, grace: 300 } })
      const clients = await Promise.all(Array.from({ length: 20 }, () => RawClient.open(t, server.ws)))
      const silent = await RawClient.open(t, server.ws)
      silent.ws.pause()
      await server.app.close()
      t.equal(silent.ws.readyState, WebSocket.OPEN, 'closed although the silent one has not answered')
      await until(() => clients.every(({ closed }) => closed))
      t.same(new Set(clients.map(({ closed }) => closed!.code)), new Set([1012]))
      const delays = new Set(clients.map((client) => client.of('reconnect')[0]!.delay))
      t.ok(delays.size > 5, `${delays.size} different delays`)
    }
  )

  await parent.test('the drain step closes over its window and refuses newcomers', async (t) => {
    const steps = new Map<string, (context: { deadline: number }) => Promise<void>>()
    const server = await startTestApp(t, redis.url, { drain: { spread: 1000, grace: 100 } }, async (app) => {
      await app.register(websocket)
      app.get('/own', { websocket: true }, (socket, request) => {
        app.broadcast.attach(socket, request, { channels: ['news'] })
      })
      app.decorate('health', {
        state: 'ready',
        addCheck: () => undefined,
        onDrain: (name: string, step: (context: { deadline: number }) => Promise<void>) =>
          steps.set(name, step)
      })
    })
    const clients = await Promise.all(Array.from({ length: 10 }, () => RawClient.open(t, server.ws)))
    const draining = steps.get('ws-broadcast')!({ deadline: Date.now() + 5000 })
    t.equal(await refusal(server.ws), 503)
    const open = (): RawClient[] => clients.filter(({ closed }) => !closed)
    await until(() => open().length < 10, { interval: 1 })
    for (const client of open()) client.send({ type: 'ping', id: 'served until its turn' })
    await until(() => clients.some((client) => client.of('pong').length > 0))
    await draining
    await until(() => open().length === 0)
    t.same(new Set(clients.map(({ closed }) => closed!.code)), new Set([1012]))

    // A route of the app's own does not ask whether newcomers are welcome.
    const late = new WebSocket(server.ws.replace(/ws$/, 'own'))
    const frames: unknown[] = []
    late.on('message', (data: Buffer) => frames.push(JSON.parse(data.toString())))
    let code: number | undefined
    late.on('close', (closeCode) => (code = closeCode))
    await until(() => code !== undefined, { message: 'it is sent away' })
    t.equal(code, 1012)
    t.match(frames, [{ type: 'welcome' }, { type: 'reconnect', delay: Number }])
    await until(() => server.app.broadcast.stats().connections === 0)
  })

  await parent.test('SSE: the same messages, resumed by Last-Event-ID', async (t) => {
    const server = await startTestApp(t, redis.url, {
      ssePath: '/events',
      ping: { interval: 200, timeout: 200 },
      drain: { spread: 0 }
    })
    const read = async (
      headers: Record<string, string>,
      until_: (text: string) => boolean
    ): Promise<string> => {
      const stop = new AbortController()
      const response = await fetch(`${server.url}/events?channels=news,plain:1`, {
        headers,
        signal: stop.signal
      })
      t.equal(response.headers.get('content-type'), 'text/event-stream')
      let text = ''
      for await (const chunk of response.body!) {
        text += Buffer.from(chunk as Uint8Array).toString()
        if (until_(text)) break
      }
      stop.abort()
      return text
    }
    const seen = new EventEmitter()
    const first = read({}, (text) => {
      if (text.split('"subscribed"').length === 3) seen.emit('ready')
      return text.includes('"data":1') && text.includes('"ping"')
    })
    await new Promise((resolve) => seen.once('ready', resolve))
    await server.app.broadcast.publish('news', 1)
    const id = /id: (\S+)\n(?![^]*id: )/.exec(await first)![1]!
    await server.app.broadcast.publish('news', 2)
    await server.app.broadcast.publish('news', 3)
    const second = await read({ 'last-event-id': id }, (text) => text.includes('"data":3'))
    t.ok(second.includes('"data":2'))
    t.notOk(second.includes('"data":1'))
    for (const [query, status] of [
      ['', 400],
      ['?channels=a%20b', 400],
      ['?channels=unknown', 404]
    ] as const) {
      t.equal((await fetch(`${server.url}/events${query}`)).status, status)
    }
    await until(() => server.app.broadcast.stats().connections === 0)
    const open = await fetch(`${server.url}/events?channels=news`)
    const closing = server.app.close()
    const rest = await open.text()
    await closing
    const retries = [...rest.matchAll(/^retry: (\d+)$/gm)].map(([, ms]) => Number(ms))
    t.same(retries, [3000, 1000], 'a browser keeps the last: never next to nothing')
  })

  await parent.test(
    'SSE: a channel named twice is one, and an id names no channel but its own',
    async (t) => {
      const server = await startTestApp(t, redis.url, { ssePath: '/events', ping: { interval: 500 } })
      const { epoch, offset } = await server.app.broadcast.publish('load:sse', 1)
      for (const data of [2, 3]) await server.app.broadcast.publish('load:sse', data)
      const id = `load%3Asse=${epoch}:${offset}&load%3Aother=${epoch}:${offset}`
      for (const [query, headers] of [
        ['', { 'last-event-id': id }],
        [`&since=${encodeURIComponent(id)}`, {}]
      ] as const) {
        const stop = new AbortController()
        t.teardown(() => stop.abort())
        const response = await fetch(`${server.url}/events?channels=load:sse,load:sse${query}`, {
          headers,
          signal: stop.signal
        })
        let text = ''
        for await (const chunk of response.body!) {
          text += Buffer.from(chunk as Uint8Array).toString()
          if (text.includes('"type":"ping"')) break
        }
        t.same(
          [...text.matchAll(/"data":(\d)/g)].map(([, data]) => data),
          ['2', '3']
        )
        t.notMatch(text, 'other')
      }
    }
  )

  await parent.test('SSE: who has gone is subscribed to nothing more', async (t) => {
    let asked = 0
    let answer = (): void => undefined
    const answered = new Promise<boolean>((resolve) => {
      answer = () => resolve(true)
    })
    const server = await startTestApp(t, redis.url, {
      ssePath: '/events',
      // Asked about members, too: once it has been let in.
      authorize: (_request, _channel, action) => {
        if (action !== 'presence') return true
        asked += 1
        return answered
      }
    })
    const stop = new AbortController()
    await fetch(`${server.url}/events?channels=room:1,room:2,room:3`, { signal: stop.signal })
    await until(() => asked === 1)
    stop.abort()
    await until(() => server.app.broadcast.stats().connections === 0)
    answer()
    await server.app.broadcast.publish('plain:1', 1)
    t.equal(asked, 1, 'not even asked about')
    t.equal(server.app.broadcast.stats().channels, 0)
  })

  await parent.test('a publisher without a server', async (t) => {
    const server = await startTestApp(t, redis.url)
    const client = await RawClient.open(t, server.ws)
    await client.subscribe('news')
    const publisher = createPublisher({
      redis: redis.client(),
      channels: { news: { history: { size: 1000 } }, plain: {} }
    })
    t.teardown(() => publisher.close())
    await publisher.publish('news', 'from a worker')
    await client.count(1)
    t.same(client.data(), ['from a worker'])
    await t.rejects(publisher.publish('plain', 1, { durable: true }), { code: 'FLOTILLA_WS_ERR_NO_HISTORY' })
    publisher.close()
    await t.rejects(publisher.publish('news', 1), { code: 'FLOTILLA_WS_ERR_CLOSED' })
    for (const options of [
      { redis: undefined as never, channels: { a: {} } },
      { redis: redis.client(), channels: { a: { durable: true } } }
    ]) {
      t.throws(() => createPublisher(options), { code: 'FLOTILLA_WS_ERR_OPTION' })
    }
  })

  await parent.test('bad options and a second registration fail register', async (t) => {
    const attempt = async (options: object): Promise<unknown> => {
      const app = Fastify()
      await app.register(flotillaRedis, { client: redis.client() })
      return app.register(flotillaBroadcast, options as never).then(
        () => app.close(),
        (error: unknown) => app.close().then(() => Promise.reject(error))
      )
    }
    for (const options of [
      {},
      { channels: {} },
      { channels: { 'a b': {} } },
      { channels: { a: { history: { size: 0 } } } },
      { channels: { a: { backpressure: 'resync' } } },
      { channels: { a: { durable: true } } },
      { channels: { a: { presense: true } } },
      { channels: { a: {} }, path: 'ws' },
      { channels: { a: {} }, origins: ['https://x.example/path'] },
      { channels: { a: {} }, ping: { interval: '1' } },
      { channels: { a: {} }, rate: { burst: 99 } },
      { channels: { a: {} }, rate: { perSecond: 0 } },
      { channels: { a: {} }, unknown: 1 },
      { channels: { a: {} }, prefix: '/api' }
    ]) {
      await t.rejects(attempt(options), { code: 'FLOTILLA_WS_ERR_OPTION' }, JSON.stringify(options))
    }
    await t.rejects(attempt({ channels: { a: {} }, maxChannels: 30, rate: { burst: 20 } }), {
      message: /'rate\.burst' must be at least 'maxChannels' \(30\).*got 20/
    })
    const withOwn = (perMessageDeflate: boolean, compression: boolean): Promise<unknown> =>
      startTestApp(t, redis.url, { compression }, (app) =>
        app.register(websocket, { options: { perMessageDeflate } })
      )
    await t.rejects(withOwn(false, true), {
      code: 'FLOTILLA_WS_ERR_OPTION',
      message: /perMessageDeflate: true/
    })
    await t.rejects(withOwn(true, false), {
      code: 'FLOTILLA_WS_ERR_OPTION',
      message: /perMessageDeflate: false/
    })
    await withOwn(true, true)

    const server = await startTestApp(t, redis.url)
    const twice = Fastify()
    t.teardown(() => twice.close())
    await twice.register(flotillaRedis, { client: redis.client() })
    await twice.register(flotillaBroadcast, { channels: { a: {} } })
    await t.rejects(async () => twice.register(flotillaBroadcast, { channels: { a: {} } }), {
      code: 'FLOTILLA_WS_ERR_ALREADY_REGISTERED'
    })
    await t.rejects(async () => Fastify().register(flotillaBroadcast, { channels: { a: {} } }), {
      code: 'FLOTILLA_REDIS_ERR_NO_CLIENT'
    })
    t.equal(server.app.broadcast.stats().connections, 0)
  })

  await parent.test('channels are given back some time after the last member left', async (t) => {
    const server = await startTestApp(t, redis.url, { linger: 100 })
    const client = await RawClient.open(t, server.ws)
    await client.subscribe('load:1')
    await client.subscribe('load:2')
    t.equal(server.app.broadcast.stats().channels, 2)
    client.send({ type: 'unsubscribe', channel: 'load:1' })
    await client.next('unsubscribed')
    await client.subscribe('load:1')
    client.ws.close()
    await until(() => server.app.broadcast.stats().channels === 0)
    const again = await RawClient.open(t, server.ws)
    await again.subscribe('load:1')
    await server.app.broadcast.publish('load:1', 'back')
    await again.count(1)
    t.same(again.data(), ['back'])
  })
})
