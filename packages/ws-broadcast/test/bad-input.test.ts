import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect as connectTcp, type Socket } from 'node:net'
import websocket from '@fastify/websocket'
import { startRedis, until } from '@flotilla/testbed'
import { test } from 'tap'
import { WebSocket } from 'ws'
import type { PublishOptions } from '../src/index.js'
import { encodeConflateKey } from '../src/envelope.js'
import { RawClient, startTestApp } from './app.js'

test('bad frames', async (parent) => {
  const redis = await startRedis()
  parent.teardown(() => redis.stop())
  const server = await startTestApp(parent, redis.url, {
    maxChannels: 5,
    rate: { perSecond: 50, burst: 300 }
  })
  const witness = await RawClient.open(parent, server.ws)
  await witness.subscribe('news')

  const errors: [what: string, frame: unknown, code: string][] = [
    ['no JSON', 'hello', 'bad_frame'],
    ['half of it', '{"type":"subscribe","channel":', 'bad_frame'],
    ['a list', '[{"type":"ping"}]', 'bad_frame'],
    ['a scalar', '7', 'bad_frame'],
    ['nothing', '', 'bad_frame'],
    ['a prototype', '{"type":"subscribe","channel":"news","__proto__":{"x":1}}', 'bad_frame'],
    [
      'too deep',
      `{"type":"publish","channel":"room:1","data":${'['.repeat(20_000)}${']'.repeat(20_000)}}`,
      'too_deep'
    ],
    ['no type', {}, 'unknown_command'],
    ['an unknown one', { type: 'constructor' }, 'unknown_command'],
    ['no channel', { type: 'subscribe' }, 'bad_channel'],
    ['a number for one', { type: 'subscribe', channel: 7 }, 'bad_channel'],
    ['an empty name', { type: 'subscribe', channel: '' }, 'bad_channel'],
    ['a name of 64 kB', { type: 'subscribe', channel: 'n'.repeat(65_500) }, 'bad_channel'],
    ['a name of 64 kB to leave', { type: 'unsubscribe', channel: 'n'.repeat(65_000) }, 'bad_channel'],
    ['a name with a brace', { type: 'subscribe', channel: 'room:{1}' }, 'bad_channel'],
    ['a name with a line end', { type: 'subscribe', channel: 'room:\r\nSET' }, 'bad_channel'],
    ['an unknown channel', { type: 'subscribe', channel: 'secret' }, 'unknown_channel'],
    ['a pattern', { type: 'subscribe', channel: 'short:' }, 'unknown_channel'],
    ['a position that is none', { type: 'subscribe', channel: 'news', since: 'yesterday' }, 'bad_position'],
    [
      'an offset that is none',
      { type: 'subscribe', channel: 'news', since: { epoch: 'e', offset: '1e9' } },
      'bad_position'
    ],
    [
      'a huge offset',
      { type: 'subscribe', channel: 'news', since: { epoch: 'e', offset: `${'9'.repeat(400)}-0` } },
      'bad_position'
    ],
    ['a publish without data', { type: 'publish', channel: 'room:1' }, 'bad_frame'],
    ['a bad key', { type: 'publish', channel: 'room:1', data: 1, key: { $ne: 1 } }, 'bad_frame'],
    [
      'data that is short to write and long to keep',
      `{"type":"publish","channel":"room:1","data":[${Array(10_000).fill('1e20').join(',')}]}`,
      'too_large'
    ],
    ['a publish where none is due', { type: 'publish', channel: 'news', data: 1 }, 'forbidden'],
    ['presence where there is none', { type: 'presence', channel: 'news' }, 'no_presence']
  ]
  for (const [what, frame, code] of errors) {
    const client = await RawClient.open(parent, server.ws)
    client.send(frame)
    const error = await client.next('error')
    parent.equal(error.code, code, what)
    if (code === 'too_deep') parent.match(error.message, /at most 32 levels/)
    parent.equal(client.closed, undefined)
    client.ws.terminate()
  }

  await parent.test('closes', async (t) => {
    const closes: [what: string, code: number, act: (client: RawClient) => void][] = [
      ['a binary frame', 1003, ({ ws }) => ws.send(Buffer.from([1, 2, 3]))],
      [
        'a name over maxPayload',
        1009,
        ({ ws }) => ws.send(`{"type":"subscribe","channel":"${'n'.repeat(65_536)}"}`)
      ],
      ['a frame over maxPayload', 1009, ({ ws }) => ws.send('x'.repeat(65_537))],
      [
        'ten frames that are no commands',
        4400,
        (client) => Array.from({ length: 10 }, () => client.send('x'))
      ],
      [
        'more commands than the burst',
        4429,
        (client) => Array.from({ length: 400 }, () => client.send({ type: 'ping' }))
      ],
      ['invalid UTF-8', 1007, ({ ws }) => ws.send(Buffer.from([0xc3, 0x28]), { binary: false })]
    ]
    for (const [what, code, act] of closes) {
      const client = await RawClient.open(t, server.ws)
      act(client)
      await until(() => client.closed, { message: what })
      t.equal(client.closed!.code, code, what)
      if (code === 4429) t.equal(client.of('error').at(-1)?.code, 'rate_limited')
    }
  })

  await parent.test(
    'a long message is refused by its header, whatever the app’s own websockets take',
    async (t) => {
      for (const perMessageDeflate of [false, true]) {
        const own = await startTestApp(t, redis.url, { maxPayload: '1kb' }, async (app) => {
          await app.register(websocket, { options: { perMessageDeflate } })
          app.get('/attached', { websocket: true }, (socket, request) => {
            app.broadcast.attach(socket, request)
          })
          app.get('/echo', { websocket: true }, (socket) => {
            socket.on('message', (data: Buffer) => socket.send(data.length))
          })
        })
        const url = own.ws.replace(/ws$/, '')
        for (const path of ['ws', 'attached']) {
          const client = await RawClient.open(t, url + path)
          client.send({ type: 'ping', id: 1 })
          await client.next('pong')
          // What it announces never comes.
          const header = Buffer.from([0x81, 0xff, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0])
          ;(client.ws as unknown as { _socket: Socket })._socket.write(header)
          await until(() => client.closed, { message: `${path} is closed` })
          t.equal(client.closed!.code, 1009)
          if (!perMessageDeflate) continue
          const packed = await RawClient.open(t, url + path, { perMessageDeflate: { threshold: 0 } })
          t.match(packed.ws.extensions, /permessage-deflate/)
          packed.send('x'.repeat(100_000))
          await until(() => packed.closed)
          t.equal(packed.closed!.code, 1009, 'as long as it is unpacked')
        }
        const echo = new WebSocket(`${url}echo`)
        t.teardown(() => echo.terminate())
        await once(echo, 'open')
        echo.send('x'.repeat(100_000))
        const [answer] = (await once(echo, 'message')) as [Buffer]
        t.equal(answer.toString(), '100000', 'the app’s own are left as they are')
      }
    }
  )

  await parent.test('positions that this log cannot have', async (t) => {
    const { epoch, offset } = await server.app.broadcast.publish('load:p', 1)
    const future = { epoch, offset: `${Number(offset!.split('-')[0]) + 1e9}-0` }
    for (const [since, reason] of [
      [future, 'ahead'],
      [{ epoch: 'elsewhere', offset }, 'epoch']
    ] as const) {
      const client = await RawClient.open(t, server.ws)
      t.equal((await client.subscribe('load:p', since)).recovered, false)
      t.equal((await client.next('gap')).reason, reason)
      await server.app.broadcast.publish('load:p', reason)
      await until(() => client.data().includes(reason), { message: 'new messages arrive all the same' })
    }
  })

  await parent.test('more channels than allowed', async (t) => {
    const client = await RawClient.open(t, server.ws)
    for (let n = 0; n < 200; n += 1) client.send({ type: 'subscribe', id: n, channel: `load:${n}` })
    await until(() => client.of('error').length + client.of('subscribed').length === 200)
    t.equal(client.of('subscribed').length, 5)
    t.same(new Set(client.of('error').map(({ code }) => code)), new Set(['too_many_channels']))
  })

  await parent.test('subscribing and leaving in a flurry ends as the last command said', async (t) => {
    const client = await RawClient.open(t, server.ws)
    for (let n = 0; n < 60; n += 1) {
      client.send({ type: 'subscribe', channel: 'news' })
      client.send({ type: 'unsubscribe', channel: 'news' })
    }
    client.send({ type: 'subscribe', id: 'last', channel: 'news' })
    await until(() => client.of('subscribed').some(({ id }) => id === 'last'))
    await server.app.broadcast.publish('news', 'after the flurry')
    await client.count(1)
    t.same(client.data(), ['after the flurry'])
  })

  await parent.test('what the server cannot publish', async (t) => {
    const { broadcast } = server.app
    const circular: Record<string, unknown> = {}
    circular['self'] = circular
    for (const data of [undefined, () => 1, Symbol('x'), 1n, circular, { toJSON: () => undefined }]) {
      await t.rejects(broadcast.publish('news', data), { code: 'FLOTILLA_WS_ERR_UNSERIALISABLE' })
    }
    await t.rejects(broadcast.publish('news', 'x'.repeat(70_000)), { code: 'FLOTILLA_WS_ERR_TOO_LARGE' })
    await t.rejects(broadcast.publish('nothing', 1), { code: 'FLOTILLA_WS_ERR_UNKNOWN_CHANNEL' })
    await t.rejects(broadcast.publish('a b', 1), { code: 'FLOTILLA_WS_ERR_CHANNEL_NAME' })
    await t.rejects(broadcast.presence('news'), { code: 'FLOTILLA_WS_ERR_NO_PRESENCE' })
    t.same((await broadcast.publish('room:x', null)).duplicate, false)
    for (const options of [{ durable: true }, { durable: true, idempotencyKey: 'k' }]) {
      await t.rejects(broadcast.publish('plain:1', 1, options), { code: 'FLOTILLA_WS_ERR_NO_HISTORY' })
    }
  })

  await parent.test('idempotency keys: none is empty, and those of two users are two', async (t) => {
    for (const idempotencyKey of ['', 17, null]) {
      for (const channel of ['news', 'plain:1']) {
        await t.rejects(server.app.broadcast.publish(channel, 1, { idempotencyKey } as PublishOptions), {
          code: 'FLOTILLA_WS_ERR_OPTION',
          message: /idempotencyKey/
        })
      }
    }
    const users = await startTestApp(t, redis.url, {
      authenticate: (request) => ({ userId: (request.query as { user: string }).user })
    })
    for (const [user, key] of [
      ['ann', 'b:1'],
      ['ann:b', '1']
    ] as const) {
      const client = await RawClient.open(t, `${users.ws}?user=${user}`)
      await client.subscribe('room:keys')
      client.send({ type: 'publish', id: 1, channel: 'room:keys', data: user, key })
      await client.next('published')
      await client.count(1)
      t.same(client.data(), [user])
    }
  })

  await parent.test(
    'a name that nearly fits a pattern in many ways takes no longer than another',
    async (t) => {
      const patterns = await startTestApp(t, redis.url, {
        channels: { '*:*:*:*:*:*:*:end': {}, 'a*b': {}, 'c**': {}, 'd*': {} }
      })
      const client = await RawClient.open(t, patterns.ws)
      const names = {
        'a:b:c:d:e:f:g:end': 'subscribed',
        [`${'x:'.repeat(90)}end`]: 'subscribed',
        ':::::::end': 'error',
        [':'.repeat(190)]: 'error',
        axb: 'subscribed',
        abxb: 'subscribed',
        ab: 'error',
        axbx: 'error',
        cxx: 'subscribed',
        cx: 'error',
        dx: 'subscribed',
        d: 'error'
      }
      for (const channel of Object.keys(names)) client.send({ type: 'subscribe', channel })
      const answers = (): [string, string][] =>
        client.frames.flatMap((frame) =>
          frame.type === 'subscribed' || frame.type === 'error' ? [[frame.channel!, frame.type]] : []
        )
      await until(() => answers().length === Object.keys(names).length)
      t.same(Object.fromEntries(answers()), names)
    }
  )

  await parent.test('conflate keys: any string is one, and stays one of its own', (t) => {
    t.equal(encodeConflateKey(undefined), '')
    t.equal(encodeConflateKey('order 17'), 'order%2017')
    const long = 'k'.repeat(300)
    const keys = [
      `${long}a`,
      `${long}b`,
      'ä'.repeat(100),
      `${'ä'.repeat(100)}b`,
      '\ud800',
      '\udfff',
      '\ufffd',
      '"',
      '\n'
    ]
    const encoded = keys.map((key) => encodeConflateKey(key))
    t.equal(new Set(encoded).size, keys.length)
    for (const one of encoded) t.match(one, /^\S{1,200}$/)
    t.end()
  })

  await parent.test('rubbish instead of frames, and connections that do nothing', async (t) => {
    const { port } = new URL(server.url)
    const sockets = Array.from({ length: 30 }, () => connectTcp(Number(port), '127.0.0.1'))
    t.teardown(() => sockets.map((socket) => socket.destroy()))
    for (const [index, socket] of sockets.entries()) {
      socket.on('error', () => undefined)
      socket.write(
        'GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
          'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n'
      )
      if (index % 3 === 0) socket.write(randomBytes(500))
      else if (index % 3 === 1) socket.end()
    }
    await until(() => server.app.broadcast.stats().connections <= 45)
    t.pass('survived')
  })

  await parent.test('fuzz: nothing a client sends hurts anybody else', async (t) => {
    const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() % 1e6)
    t.comment(`FUZZ_SEED=${seed}`)
    const random = generator(seed)
    const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
    const value = (depth = 0): unknown =>
      pick<() => unknown>([
        () => null,
        () => random() * 1e12,
        () => -0,
        () => 'news',
        () => 'room:1',
        () => '\u0000\ud800',
        () => 'x'.repeat(Math.floor(random() * 300)),
        () => true,
        () => (depth > 3 ? [] : Array.from({ length: 3 }, () => value(depth + 1))),
        () => (depth > 3 ? {} : { type: value(depth + 1), epoch: value(depth + 1), offset: '1-1' })
      ])()
    const types = [
      'subscribe',
      'unsubscribe',
      'publish',
      'presence',
      'ping',
      'pong',
      'message',
      '__proto__',
      7
    ]
    const frame = (): string => {
      const text = JSON.stringify({
        type: pick(types),
        id: value(),
        channel: pick<unknown>(['news', 'room:1', 'short:1', value()]),
        since: value(),
        data: value(),
        key: value()
      })
      return random() < 0.1 ? text.slice(0, Math.floor(random() * text.length)) : text
    }
    const clients: RawClient[] = []
    for (let n = 0; n < 40; n += 1) {
      const client = await RawClient.open(t, server.ws)
      clients.push(client)
      for (let m = 0; m < 50 && client.ws.readyState === 1; m += 1) client.send(frame())
    }
    const marker = `marker ${seed}`
    await server.app.broadcast.publish('news', marker)
    await until(() => witness.data().includes(marker))
    t.equal(witness.closed, undefined)
    for (const client of clients) client.ws.terminate()
    const codes = new Set(clients.flatMap((client) => client.of('error').map(({ code }) => code)))
    t.notOk(codes.has('unavailable'), `only refusals: ${[...codes].join(', ')}`)
  })

  await until(() => server.app.broadcast.stats().connections <= 2, {
    message: 'nobody is left but the witness'
  })
  const { subscriptions } = server.app.broadcast.stats()
  parent.equal(subscriptions, 1, 'and nothing of them')
})

/** A small linear congruential generator, so that a seed repeats a run. */
function generator(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}
