import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { gzipSync } from 'node:zlib'
import websocket from '@fastify/websocket'
import { startProxy, startRedis, until } from '@flotilla/testbed'
import { build } from 'esbuild'
import { test, type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { connect, type BroadcastClient, type ClientOptions, type MessageEvent } from '../src/client/index.js'
import type { ClientFrame, ServerFrame } from '../src/protocol.js'
import { RawClient, startTestApp } from './app.js'

const FAST = { min: 20, max: 100 }

function open(t: Test, url: string, options: ClientOptions = {}): BroadcastClient {
  const client = connect(url, { WebSocket, reconnect: FAST, ...options })
  t.teardown(() => client.close())
  return client
}

/** What a hook of the app awaits until the test goes on. */
function newGate(): { opened: Promise<void>; open: () => void } {
  let open = (): void => undefined
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { opened, open }
}

/** What keeps this process alive, of its timers. `until` has none while its condition is asked. */
function timers(): number {
  return process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
}

/** One connection of a client, as a scripted server has it. */
interface Peer {
  /** 0 for the first. */
  readonly index: number
  readonly frames: ClientFrame[]
  send(frame: ServerFrame): void
  close(code: number): void
}

/** A server that welcomes everyone and otherwise does what the test says at each frame; it forces what a real one seldom does. */
async function startScript(
  t: Test,
  onFrame: (peer: Peer, frame: ClientFrame) => void,
  onOpen: (peer: Peer) => void = () => undefined
): Promise<{ url: string; peers: Peer[] }> {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  t.teardown(() => {
    for (const socket of server.clients) socket.terminate()
    server.close()
  })
  const peers: Peer[] = []
  server.on('connection', (socket) => {
    const peer: Peer = {
      index: peers.length,
      frames: [],
      send: (frame) => socket.send(JSON.stringify(frame)),
      close: (code) => socket.close(code)
    }
    peers.push(peer)
    socket.on('message', (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as ClientFrame
      peer.frames.push(frame)
      onFrame(peer, frame)
    })
    peer.send({
      type: 'welcome',
      connection: `c${peer.index}`,
      ping: 25_000,
      idempotencyTtl: 300_000,
      limits: { maxPayload: 65_536, maxChannels: 100, perSecond: 50, burst: 200, bytesPerSecond: 262_144 }
    })
    onOpen(peer)
  })
  await once(server, 'listening')
  return { url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}`, peers }
}

test('the client', async (parent) => {
  const redis = await startRedis()
  parent.teardown(() => redis.stop())
  const server = await startTestApp(parent, redis.url)
  const proxy = await startProxy({ host: '127.0.0.1', port: Number(new URL(server.url).port) })
  parent.teardown(() => proxy.stop())
  const url = `http://127.0.0.1:${proxy.port}/ws`
  // Its own origin is the proxy's; that of a browser would be too.

  await parent.test('resumes after its connection was cut, without a gap or a duplicate', async (t) => {
    const client = open(t, url)
    const events: string[] = []
    client.on('state', ({ state }) => events.push(state))
    client.on('gap', ({ reason }) => events.push(reason))
    const seen: number[] = []
    const subscription = client.subscribe<number>('news', ({ data }) => seen.push(data))
    await subscription.ready
    for (let n = 0; n < 50; n += 1) {
      if (n % 10 === 3) proxy.cut()
      await server.app.broadcast.publish('news', n)
    }
    await until(() => seen.length >= 50)
    t.same(
      seen,
      Array.from({ length: 50 }, (_none, n) => n)
    )
    t.ok(events.filter((event) => event === 'open').length >= 2, events.join(' '))
    t.notOk(events.includes('trimmed'))
    t.ok(subscription.position)

    const later = open(t, url)
    const rest: unknown[] = []
    await server.app.broadcast.publish('news', 'after')
    later.subscribe('news', ({ data }) => rest.push(data), { since: subscription.position! })
    await until(() => rest.length > 0)
    t.same(rest, ['after'], 'a stored position resumes in another client')
  })

  await parent.test('a subscription made before there was a first message misses none of them', async (t) => {
    const client = open(t, url)
    const seen: unknown[] = []
    const gaps: unknown[] = []
    client.on('gap', (gap) => gaps.push(gap))
    await client.subscribe('load:fresh', ({ data }) => seen.push(data)).ready
    await proxy.refuse()
    await until(() => client.state === 'connecting')
    await server.app.broadcast.publish('load:fresh', 1)
    await proxy.restore()
    await until(() => seen.length > 0)
    t.same([seen, gaps], [[1], []])
  })

  await parent.test(
    'a subscription made anew does not take what was on its way to the one before',
    async (t) => {
      for (const [again, expected] of [
        [2, [3, 4]],
        [1, [2, 3, 4]]
      ] as const) {
        const gate = newGate()
        const gated = await startTestApp(t, redis.url, {
          authorize: async (_request, _channel, action) => {
            if (action === 'publish') await gate.opened
            return true
          }
        })
        const channel = `room:again-${again}`
        const client = open(t, gated.ws)
        const witness = await RawClient.open(t, gated.ws)
        await witness.subscribe(channel)
        const first: unknown[] = []
        const before = client.subscribe<number>(channel, ({ data }) => first.push(data))
        await before.ready
        const positions = [undefined, await gated.app.broadcast.publish(channel, 1)]
        positions.push(await gated.app.broadcast.publish(channel, 2))
        await until(() => first.length === 2)

        // The server carries out a channel's commands in order: while this one waits it goes on with the subscription before.
        const own = client.publish(channel, 4)
        before.unsubscribe()
        const second: unknown[] = []
        const { offset, epoch } = positions[again]!
        const after = client.subscribe(channel, ({ data }) => second.push(data), {
          since: { offset: offset!, epoch: epoch! }
        })
        await gated.app.broadcast.publish(channel, 3)
        await witness.count(3, channel)
        await client.presence('room:elsewhere')
        t.same(second, [], 'message 3 has come and is not for this subscription yet')
        t.equal(after.position?.offset, offset)
        gate.open()
        await Promise.all([after.ready, own])
        await until(() => second.includes(4))
        t.same([first, second], [[1, 2], expected])
      }
    }
  )

  await parent.test(
    'what the server subscribed a connection to does not disturb its own subscription',
    async (t) => {
      const gate = newGate()
      const attaching = await startTestApp(
        t,
        redis.url,
        {
          authorize: async (_request, _channel, action) => {
            if (action === 'subscribe') await gate.opened
            return true
          }
        },
        async (app) => {
          await app.register(websocket)
          await app.register(async (scope) => {
            scope.get('/live', { websocket: true }, (socket, request) => {
              app.broadcast.attach(socket, request, { channels: ['load:both'] })
            })
          })
        }
      )
      const { broadcast } = attaching.app
      const first = await broadcast.publish('load:both', 1)
      await broadcast.publish('load:both', 2)
      const live = attaching.ws.replace(/ws$/, 'live')
      const witness = await RawClient.open(t, live)
      const client = open(t, live)
      const seen: unknown[] = []
      const { ready } = client.subscribe('load:both', ({ data }) => seen.push(data), {
        since: { offset: first.offset!, epoch: first.epoch! }
      })
      await until(() => broadcast.stats().subscriptions === 2)
      await broadcast.publish('load:both', 3)
      await witness.count(1)
      await client.presence('room:elsewhere')
      gate.open()
      await ready
      await broadcast.publish('load:both', 4)
      await until(() => seen.includes(4))
      t.same(seen, [2, 3, 4])
    }
  )

  await parent.test('a listener that acts as soon as the connection is open acts once', async (t) => {
    const script = await startScript(t, (peer, frame) => {
      if (frame.type === 'subscribe') {
        const { channel, id } = frame
        peer.send({
          type: 'subscribed',
          ...(id !== undefined && { id }),
          channel,
          epoch: 'e',
          offset: '5-0',
          recovered: true
        })
      }
      if (frame.type === 'presence') peer.send({ ...frame, members: [] })
      if (frame.type === 'publish') peer.send({ type: 'published', id: frame.id!, channel: frame.channel })
    })
    const client = open(t, script.url)
    client.subscribe('early')
    const waiting = client.publish('early', 'before')
    const answers: Promise<unknown>[] = []
    client.on('state', ({ state }) => {
      if (state !== 'open') return
      answers.push(
        client.subscribe('late', undefined, { since: { epoch: 'e', offset: '1-0' } }).ready,
        client.publish('late', 1),
        client.presence('late')
      )
    })
    await until(() => answers.length > 0)
    await Promise.all([waiting, ...answers])
    t.same(
      script.peers[0]!.frames.map(
        ({ type, ...frame }) => `${type} ${(frame as { channel: string }).channel}`
      ),
      ['subscribe early', 'publish early', 'subscribe late', 'publish late', 'presence late']
    )
    const ids = script.peers[0]!.frames.map(({ id }: { id?: unknown }) => id)
    t.equal(new Set(ids).size, 5, 'each under an id of its own')
  })

  await parent.test(
    'a subscribe that failed is not repeated once the connection has been made anew',
    async (t) => {
      const script = await startScript(t, (peer, frame) => {
        if (frame.type !== 'subscribe') return
        const { channel } = frame
        const id = frame.id === undefined ? {} : { id: frame.id }
        const others = peer.frames.filter((one) => one.type === 'subscribe' && one.channel === 'other')
        const refuse = peer.index === 0 ? channel === 'news' : channel === 'other' && others.length < 3
        peer.send(
          refuse
            ? { type: 'error', ...id, channel, code: 'unavailable', message: 'try again' }
            : { type: 'subscribed', ...id, channel, epoch: 'e', offset: '5-0', recovered: true }
        )
        if (peer.index === 0 && channel === 'news') {
          peer.send({ type: 'reconnect', delay: 0 })
          peer.close(1012)
        }
      })
      const client = open(t, script.url, { reconnect: { min: 100, max: 100 } })
      const { ready } = client.subscribe('news')
      await ready
      // Refused twice, each time repeated after at least `min`: later than the first one's turn would have come.
      await client.subscribe('other').ready
      t.same(
        script.peers.map(({ frames }) => frames.filter((frame) => frame.type === 'subscribe').length),
        [1, 4]
      )
    }
  )

  await parent.test('a refusal that comes too late for its command leaves the channel alone', async (t) => {
    const gate = newGate()
    const gated = await startTestApp(t, redis.url, {
      authorize: async (_request, _channel, action) => {
        if (action !== 'publish') return true
        await gate.opened
        return false
      }
    })
    const client = open(t, gated.ws, { timeout: 100 })
    const [seen, errors]: [unknown[], unknown[]] = [[], []]
    client.on('error', (error) => errors.push(error))
    await client.subscribe('room:late', ({ data }) => seen.push(data)).ready
    await t.rejects(client.publish('room:late', 1), { code: 'timeout' })
    gate.open()
    const witness = await RawClient.open(t, gated.ws)
    witness.send({ type: 'publish', id: 1, channel: 'room:late', data: 1 })
    await witness.next('error')
    await gated.app.broadcast.publish('room:late', 2)
    await until(() => seen.length > 0)
    t.same([seen, errors], [[2], []])
  })

  await parent.test('a key that is used again for another message hides none of them', async (t) => {
    const forgetful = await startTestApp(t, redis.url, { idempotencyTtl: '1s' })
    const client = open(t, forgetful.ws)
    for (const channel of ['load:daily', 'plain:daily']) {
      const seen: unknown[] = []
      let last = 0
      await client.subscribe(channel, ({ data }) => {
        last = Date.now()
        seen.push(data)
      }).ready
      for (const day of [1, 2, 3]) {
        await until(
          async () =>
            Date.now() - last >= 1000 &&
            !(await redis.command('EXISTS', `flotilla:ws:{${channel}}:once:daily`)),
          { message: 'neither Redis nor the client remembers the key' }
        )
        const result = await forgetful.app.broadcast.publish(channel, day, { idempotencyKey: 'daily' })
        t.equal(result.duplicate, false)
        await until(() => seen.length === day)
      }
      t.same(seen, [1, 2, 3], channel)
    }
  })

  await parent.test(
    'a key that comes again in another epoch is the same message for as long as it is remembered',
    async (t) => {
      const script = await startScript(t, (peer, frame) => {
        if (frame.type !== 'subscribe') return
        const { channel } = frame
        peer.send({ type: 'subscribed', id: frame.id!, channel, epoch: 'a', offset: '1-0', recovered: true })
        for (const [epoch, offset] of [
          ['a', '1000-0'],
          ['b', '300999-0'],
          ['c', '301000-0'],
          ['c', '302000-0']
        ] as const) {
          peer.send({ type: 'message', channel, key: 'k', data: offset, epoch, offset })
        }
      })
      const client = open(t, script.url)
      const seen: unknown[] = []
      client.subscribe('news', ({ data }) => seen.push(data))
      await until(() => seen.includes('302000-0'))
      t.same(seen, ['1000-0', '301000-0', '302000-0'])
    }
  )

  await parent.test('comes back to as many channels as it may have', async (t) => {
    const roomy = await startTestApp(t, redis.url, { maxChannels: 300 })
    const client = open(t, roomy.ws)
    const codes: unknown[] = []
    client.on('state', ({ code }) => code !== undefined && codes.push(code))
    let confirmed = 0
    for (let n = 0; n < 300; n += 1) {
      client.subscribe(`plain:${n}`).ready.then(
        () => (confirmed += 1),
        () => undefined
      )
    }
    await until(() => confirmed === 300 || codes.length > 0)
    t.same(codes, [])
  })

  await parent.test('comes back ever more slowly to a server that sends it away each time', async (t) => {
    const noCommands = (): void => undefined
    const script = await startScript(t, noCommands, (peer) => peer.close(4429))
    const busy = await startScript(t, noCommands, (peer) => peer.close(4429))
    open(t, script.url, { reconnect: { min: 1, max: 60_000 } })
    open(t, busy.url, { reconnect: { min: 1, max: 1 } })
    await until(() => busy.peers.length >= 100, { timeout: 30_000 })
    t.ok(script.peers.length < 50, `${script.peers.length} connections`)

    const good = await startScript(t, noCommands, (peer) => {
      peer.send({ type: 'ping' })
      peer.close(4430)
    })
    open(t, good.url, { reconnect: { min: 1, max: 60_000 } })
    await until(() => good.peers.length >= 50, {
      message: 'at once where the connection had lasted until a ping'
    })
  })

  await parent.test('a channel without history says that it may have missed something', async (t) => {
    const client = open(t, url)
    const gaps: string[] = []
    client.on('gap', ({ reason }) => gaps.push(reason))
    await client.subscribe('plain:1').ready
    t.same(gaps, [])
    proxy.cut()
    await until(() => gaps.length > 0)
    t.same(gaps, ['interrupted'])
  })

  await parent.test('publishes once, whatever the connection does', async (t) => {
    const client = open(t, url)
    const seen: unknown[] = []
    await client.subscribe('room:9', ({ data }) => seen.push(data)).ready
    const publishing = Array.from({ length: 20 }, async (_none, n) => {
      if (n === 10) setImmediate(() => proxy.cut())
      return client.publish('room:9', n)
    })
    const acks = await Promise.all(publishing)
    t.equal(new Set(acks.map(({ offset }) => offset)).size, 20)
    await until(() => seen.length >= 20)
    t.same(
      seen.toSorted((a, b) => Number(a) - Number(b)),
      Array.from({ length: 20 }, (_none, n) => n)
    )
  })

  await parent.test('a publish without an answer is repeated under its key, and sent once', async (t) => {
    const gate = newGate()
    const gated = await startTestApp(t, redis.url, {
      authorize: async (_request, _channel, action) => {
        if (action === 'publish') await gate.opened
        return true
      }
    })
    const [hasty, other] = [open(t, gated.ws, { timeout: 100 }), open(t, gated.ws)]
    const seen: unknown[] = []
    await other.subscribe('room:once', ({ data }) => seen.push(data)).ready
    const options = { idempotencyKey: 'k' }
    await t.rejects(hasty.publish('room:once', 'once', options), { code: 'timeout' })
    gate.open()
    const ack = await until(() => hasty.publish('room:once', 'once', options).catch(() => undefined))
    await other.publish('room:once', 'last')
    await until(() => seen.includes('last'))
    t.same(seen, ['once', 'last'])
    t.ok(ack.offset)
  })

  await parent.test('presence, and its events', async (t) => {
    const [one, two] = [open(t, url), open(t, url)]
    const events: string[] = []
    one.on('presence', ({ type, member }) => events.push(`${type} ${member.id === two.connection}`))
    await one.subscribe('room:10').ready
    const other = two.subscribe('room:10')
    await other.ready
    await until(async () => (await one.presence('room:10')).length === 2)
    other.unsubscribe()
    await until(async () => (await one.presence('room:10')).length === 1)
    await until(() => events.includes('leave true'))
    t.ok(events.includes('join true'))
  })

  await parent.test('refusals', async (t) => {
    const client = open(t, url, { timeout: 300 })
    const errors: string[] = []
    client.on('error', ({ code, channel }) => errors.push(`${code} ${channel}`))
    await t.rejects(client.subscribe('nowhere').ready, { code: 'unknown_channel' })
    t.same(errors, ['unknown_channel nowhere'])
    await t.rejects(client.subscribe('no name').ready, { code: 'bad_channel' })
    await t.rejects(client.publish('news', 1), { code: 'forbidden' })
    await t.rejects(client.presence('news'), { code: 'no_presence' })
    await t.rejects(client.publish('room:1', 'x'.repeat(70_000)), { code: 'too_large' })
    await until(() => client.state === 'open')
    await server.app.broadcast.disconnect({ connection: client.connection! })
    await until(() => client.state === 'closed')
    await t.rejects(client.publish('room:1', 1), { code: 'closed' })
    const lonely = open(t, 'ws://127.0.0.1:1/ws', { timeout: 100 })
    await t.rejects(lonely.publish('room:1', 1), { code: 'timeout' })
    lonely.close()
    t.equal(lonely.state, 'closed')
    t.throws(() => connect('/ws', { WebSocket }), TypeError)
  })

  await parent.test(
    'what is asked of a closed client is refused, and so is what can never be answered',
    async (t) => {
      const client = open(t, url)
      await client.subscribe('news').ready
      const pending = client.subscribe('load:never')
      pending.unsubscribe()
      await t.rejects(pending.ready, { code: 'unsubscribed' })
      client.close()
      await t.rejects(client.subscribe('news').ready, { code: 'closed' }, 'a channel it was in')
      await t.rejects(client.subscribe('load:new').ready, { code: 'closed' }, 'a new one')
      await t.rejects(client.publish('room:1', 1), { code: 'closed' })
      await t.rejects(client.presence('room:1'), { code: 'closed' })
    }
  )

  await parent.test(
    'subscriptions to one channel each have a handler and a position of their own',
    async (t) => {
      const client = open(t, url)
      const seen: string[] = []
      const all: unknown[] = []
      const note = (name: string) => (message: MessageEvent<number>) => seen.push(`${name} ${message.data}`)
      const take = async (...expected: string[]): Promise<void> => {
        await until(() => seen.length >= expected.length, { message: `${expected.join()}: ${seen.join()}` })
        t.same(seen.splice(0), expected)
      }
      const first = client.subscribe('load:page', note('first'))
      const second = client.subscribe('load:page', note('second'))
      await Promise.all([first.ready, second.ready])
      client.on('message', ({ channel, data }) => channel === 'load:page' && all.push(data))
      await server.app.broadcast.publish('load:page', 1)
      await take('first 1', 'second 1')
      first.unsubscribe()
      const { offset, epoch } = await server.app.broadcast.publish('load:page', 2)
      await server.app.broadcast.publish('load:page', 3)
      await take('second 2', 'second 3')
      const since = { offset: offset!, epoch: epoch! }
      const third = client.subscribe('load:page', note('third'), { since })
      await third.ready
      const whole = client.subscribe('load:page', note('whole'), { since: { epoch: '', offset: '0-0' } })
      await take('third 3', 'whole 1', 'whole 2', 'whole 3')
      t.same(third.position, second.position)
      const late = client.subscribe('load:page', note('late'))
      await late.ready
      await server.app.broadcast.publish('load:page', 4)
      await take('second 4', 'third 4', 'whole 4', 'late 4')
      proxy.cut()
      await server.app.broadcast.publish('load:page', 5)
      await take('second 5', 'third 5', 'whole 5', 'late 5')
      t.same(all, [1, 2, 3, 4, 5], 'the event comes once for each message')

      for (const one of [second, third, whole, late]) one.unsubscribe()
      t.equal(server.app.broadcast.stats().subscriptions > 0, true)
      await client.presence('room:1')
      t.equal(server.app.broadcast.stats().subscriptions, 0, 'the last one leaves the channel')

      // As a component does that is mounted twice.
      const once = client.subscribe('load:strict', note('once'))
      once.unsubscribe()
      const twice = client.subscribe('load:strict', note('twice'))
      await t.rejects(once.ready, { code: 'unsubscribed' })
      await twice.ready
      once.unsubscribe()
      await server.app.broadcast.publish('load:strict', 1)
      await take('twice 1')
    }
  )

  await parent.test('a handler that ends or begins a subscription disturbs no other', async (t) => {
    const client = open(t, url)
    const seen: string[] = []
    const second = { end: (): void => undefined }
    client.subscribe<number>('plain:handlers', ({ data }) => {
      seen.push(`first ${data}`)
      second.end()
      if (data === 1)
        client.subscribe<number>('plain:handlers', (message) => seen.push(`third ${message.data}`))
    })
    const other = client.subscribe<number>('plain:handlers', ({ data }) => seen.push(`second ${data}`))
    second.end = () => other.unsubscribe()
    await other.ready
    await server.app.broadcast.publish('plain:handlers', 1)
    await server.app.broadcast.publish('plain:handlers', 2)
    await until(() => seen.includes('third 2'))
    t.same(seen, ['first 1', 'first 2', 'third 2'])
  })

  await parent.test('a refused subscription leaves the others of its channel alone', async (t) => {
    const client = open(t, url)
    const seen: unknown[] = []
    await client.subscribe('load:shared', ({ data }) => seen.push(data)).ready
    await server.app.broadcast.publish('load:shared', 1)
    await until(() => seen.length === 1)
    const bad = client.subscribe('load:shared', undefined, { since: { epoch: 'x', offset: 'nonsense' } })
    await t.rejects(bad.ready, { code: 'bad_position' })
    await server.app.broadcast.publish('load:shared', 2)
    await until(() => seen.length === 2)
    t.same(seen, [1, 2])
  })

  await parent.test('a login that has expired ends the client with 4401 and a reason', async (t) => {
    let answer: () => { userId: string } | null = () => ({ userId: 'u1' })
    const guarded = await startTestApp(t, redis.url, { authenticate: () => answer() })
    const client = open(t, guarded.ws)
    const states: unknown[] = []
    client.on('state', (state) => states.push(state))
    const { ready } = client.subscribe('news')
    await ready
    answer = () => null
    const refused = open(t, guarded.ws)
    await t.rejects(refused.subscribe('news').ready, { code: 'closed', message: /4401: log in first/ })
    await t.rejects(refused.publish('room:1', 1), { code: 'closed' })
    answer = () => {
      throw Object.assign(new Error('the ticket is too old'), { statusCode: 401 })
    }
    // What the connection did not survive, the next attempt learns.
    await guarded.app.broadcast.disconnect({ userId: 'u1' }, { code: 4000 })
    await until(() => client.state === 'closed')
    t.same(states.at(-1), { state: 'closed', code: 4401, reason: 'the ticket is too old' })
    t.equal(guarded.app.broadcast.stats().connections, 0)
    const response = await fetch(`${guarded.url}/ws`)
    t.equal(response.status, 401, 'what is no upgrade gets an HTTP answer')
  })

  await parent.test('the URL and the subprotocols are asked for at each attempt', async (t) => {
    const seen: unknown[] = []
    const ticketed = await startTestApp(t, redis.url, {
      authenticate: ({ query, headers }) => {
        seen.push([(query as { ticket?: string }).ticket, headers['sec-websocket-protocol']])
        return {}
      }
    })
    let asked = 0
    const errors: unknown[] = []
    const client = connect(
      async () => {
        asked += 1
        if (asked === 2) throw new Error('no ticket now')
        return `${ticketed.url}/ws?ticket=${asked}`
      },
      { WebSocket, reconnect: FAST, protocols: () => ['flotilla', `p${asked}`] }
    )
    t.teardown(() => client.close())
    client.on('error', (error) => errors.push(error))
    await client.subscribe('news').ready
    await ticketed.app.broadcast.disconnect({ connection: client.connection! }, { code: 4000 })
    await until(() => seen.length === 2)
    t.same(
      seen.map((one) => (one as string[])[0]),
      ['1', '3']
    )
    t.match(seen, [
      [/1/, /^flotilla,/],
      [/3/, /^flotilla,/]
    ])
    t.match(errors, [{ code: 'connect', message: /no ticket now/ }])
  })

  await parent.test('comes back when the network or the page does', async (t) => {
    const [page, document] = [new EventTarget(), new EventTarget()]
    const scope = globalThis as unknown as Record<string, unknown>
    scope['addEventListener'] = page.addEventListener.bind(page)
    scope['document'] = Object.assign(document, { visibilityState: 'hidden' })
    t.teardown(() => {
      delete scope['addEventListener']
      delete scope['document']
    })
    const { random } = Math
    t.teardown(() => Object.assign(Math, { random }))
    const wakes = [
      () => page.dispatchEvent(new Event('online')),
      () => page.dispatchEvent(new Event('pageshow')),
      () => document.dispatchEvent(new Event('visibilitychange'))
    ]
    const through = await startProxy({ host: '127.0.0.1', port: Number(new URL(server.url).port) })
    t.teardown(() => through.stop())
    let attempts = 0
    const client = connect(
      () => {
        attempts += 1
        return `ws://127.0.0.1:${through.port}/ws`
      },
      { WebSocket, reconnect: { min: 20, max: 1e9 }, connectTimeout: 1e8 }
    )
    t.teardown(() => client.close())
    for (const wake of wakes) {
      await until(() => client.state === 'open')
      // Longer than any test: only what wakes it ends the pause.
      Math.random = () => 1e5
      await through.refuse()
      await until(() => client.state === 'connecting')
      Math.random = random
      await through.restore()
      if (wake === wakes[2]) {
        wake()
        t.equal(client.state, 'connecting', 'a hidden page waits')
        Object.assign(document, { visibilityState: 'visible' })
      }
      wake()
    }
    await until(() => client.state === 'open')
    const before = attempts
    through.blackhole()
    for (const wake of wakes) wake()
    await until(() => client.state === 'connecting', {
      message: 'a connection lost with the network is noticed'
    })
    await until(() => attempts > before, { message: 'an attempt hangs' })
    wakes[0]!()
    await until(() => attempts > before + 1, { message: 'and gives way to another' })
    await through.restore()
    await until(() => client.state === 'open', { message: 'which succeeds' })
    client.close()
    for (const wake of wakes) wake()
    t.equal(client.state, 'closed')
  })

  await parent.test('an attempt that hangs is given up', async (t) => {
    const through = await startProxy({ host: '127.0.0.1', port: Number(new URL(server.url).port) })
    t.teardown(() => through.stop())
    through.blackhole()
    const client = open(t, `ws://127.0.0.1:${through.port}/ws`, { connectTimeout: 100 })
    const codes: unknown[] = []
    client.on('state', ({ code }) => codes.push(code))
    await until(() => codes.length >= 2)
    t.same(codes.slice(0, 2), [4408, 4408])
    await through.restore()
    await until(() => client.state === 'open')

    let asked = 0
    const lost = connect(
      () => {
        asked += 1
        return asked === 1 ? new Promise(() => undefined) : server.ws
      },
      { WebSocket, reconnect: FAST, connectTimeout: 100 }
    )
    t.teardown(() => lost.close())
    await until(() => lost.state === 'open', { message: 'a URL that never comes is asked for again' })
  })

  await parent.test('a listener given twice counts twice, and each end is its own', async (t) => {
    const client = open(t, url)
    const states: string[] = []
    const listener = ({ state }: { state: string }): unknown => states.push(state)
    const end = client.on('state', listener)
    client.on('state', listener)
    await until(() => states.length > 0)
    t.same(states, ['open', 'open'])
    end()
    end()
    client.close()
    t.same(states, ['open', 'open', 'closed'])
  })

  await parent.test('data that is no JSON is refused before anything is sent', async (t) => {
    const client = open(t, url)
    // Asked before the connection is open: what waits for it must not break it.
    await t.rejects(client.publish('room:1', 1n), { code: 'unserialisable' })
    await t.rejects(client.publish('room:1', undefined), { code: 'bad_frame' })
    await client.subscribe('news').ready
    await t.rejects(client.publish('room:1', { n: 1n }), { code: 'unserialisable' })
    t.ok((await client.publish('room:1', 'still here')).offset)
  })

  await parent.test('notices a server that went silent', async (t) => {
    const quick = await startTestApp(t, redis.url, { ping: { interval: 150, timeout: 5000 } })
    const through = await startProxy({ host: '127.0.0.1', port: Number(new URL(quick.url).port) })
    t.teardown(() => through.stop())
    const client = open(t, `ws://127.0.0.1:${through.port}/ws`)
    await client.subscribe('news').ready
    through.blackhole()
    await until(() => client.state === 'connecting')
    await through.restore()
    await until(() => client.state === 'open')
    t.pass('and comes back')
  })

  await parent.test('takes its time to reconnect when the server says so', async (t) => {
    const leaving = await startTestApp(t, redis.url)
    const client = open(t, leaving.ws)
    const states: unknown[] = []
    client.on('state', (state) => states.push(state))
    await until(() => client.state === 'open')
    await leaving.app.close()
    await until(() => client.state === 'connecting')
    t.match(states.at(-1), { state: 'connecting', code: 1012 })
  })
})

test('a closed client keeps nothing alive, whatever it was waiting for', async (t) => {
  const script = await startScript(t, (peer, frame) => {
    if (frame.type !== 'subscribe') return
    const { channel } = frame
    peer.send({ type: 'error', id: frame.id!, channel, code: 'unavailable', message: 'try again' })
  })
  const before = timers()
  const client = open(t, script.url, { reconnect: { min: 60_000 } })
  const gone = client.subscribe('gone')
  client.subscribe('news')
  client.subscribe('last')
  void client.publish('news', 1).catch(() => undefined)
  await until(() => timers() === before + 5, {
    message: 'three subscribes, a publish and the connection are waited for'
  })
  gone.unsubscribe()
  t.equal(timers(), before + 4)
  client.close()
  // That of `ws` for the answer to its close ends by itself.
  await until(() => timers() === before, { message: 'nothing is waited for any more' })
  t.equal(client.state, 'closed')
})

test('a browser bundle of the client stays under 4 kB gzipped', async (t) => {
  const { outputFiles } = await build({
    entryPoints: [new URL('../src/client/index.ts', import.meta.url).pathname],
    bundle: true,
    minify: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    write: false
  })
  const { length } = gzipSync(outputFiles[0]!.contents, { level: 9 })
  t.comment(`${length} bytes gzipped, ${outputFiles[0]!.contents.length} minified`)
  t.ok(length < 4096, `${length} bytes`)
})
