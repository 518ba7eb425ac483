import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { CheckFunction } from '@flotilla/core'
import { onEachTopology, startRedis, until, type RedisServer, type Topology } from '@flotilla/testbed'
import Fastify from 'fastify'
import { test, type Test } from 'tap'
import redis, { publishTo, resolveSubscriber } from '../src/index.js'
import { record, rejection, startApp } from './fixtures/app.js'
import { subscriberSockets } from './fixtures/sockets.js'

const bus = { probeInterval: 200, probeTimeout: 500 }

/** The server that has the bus subscribed: on a Cluster any of the nodes. */
async function carrier({ topology, redis }: Topology): Promise<RedisServer> {
  if (topology === 'single') return redis
  if (topology === 'sentinel') return redis.master()
  return until(async () => {
    for (const node of redis.nodes) {
      const channels = await node.command('PUBSUB', 'CHANNELS', 'flotilla:bus')
      if (Array.isArray(channels) && channels.length > 0) return node
    }
    return undefined
  })
}

void test('CLIENT KILL TYPE pubsub: lost, recovered, and everything is subscribed again', async (suite) => {
  await onEachTopology(suite, async (t: Test, topology) => {
    const app = await startApp(t, { url: topology.url, bus })
    const subscriber = resolveSubscriber(app, app.redis)
    await app.ready()
    const heard = record(app.bus)
    await app.bus.ready()
    const rooms: string[] = []
    for (const sharded of [false, true]) {
      await subscriber.subscribe('room', (message) => rooms.push(message.toString()), { sharded })
    }
    for (let round = 1; round <= 2; round++) {
      const server = await carrier(topology)
      await server.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
      await until(() => heard.filter((one) => one === 'recovered').length === round)
      await app.bus.publish('news', round)
      await until(() => heard.at(-1) === round)
      await until(async () => {
        await publishTo(app.redis, 'room', `sharded ${round}`, { sharded: true })
        await publishTo(app.redis, 'room', `classic ${round}`)
        return rooms.includes(`sharded ${round}`) && rooms.includes(`classic ${round}`)
      })
    }
    t.same(heard, ['lost', 'recovered', 1, 'lost', 'recovered', 2])
    t.equal(app.bus.status().gaps, 2)
  })
})

void test('a subscriber that Redis drops because it reads too slowly', async (t) => {
  const server = await startRedis({ args: ['--client-output-buffer-limit', 'pubsub 100kb 0 0'] })
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url, bus })
  await app.ready()
  const heard = record(app.bus)
  await app.bus.ready()
  const [socket] = await subscriberSockets(server)
  socket!.pause()
  // More than the kernel's buffers of both ends hold.
  const big = 'x'.repeat(1_000_000)
  await until(async () => {
    await app.bus.publish('news', big)
    return heard.includes('lost')
  })
  await until(() => heard.includes('recovered'))
  // The same message ends the next connection too, for which it is as much too long.
  await until(async () => {
    await app.bus.publish('news', 'after')
    return heard.includes('after')
  })
  t.ok(app.bus.status().gaps >= 1)
})

void test('pub/sub that dies without a word: the probe finds it, health fails, the subscriber is replaced', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const checks = new Map<string, CheckFunction>()
  const app = Fastify()
  t.teardown(() => app.close())
  app.decorate('health', {
    state: 'ready',
    addCheck: (name: string, check: CheckFunction) => checks.set(name, check),
    onDrain: () => undefined
  })
  await app.register(redis, { url: server.url, bus: { probeInterval: 1_000, probeTimeout: 300 } })
  await app.ready()
  const run = (name: string): ReturnType<CheckFunction> =>
    checks.get(name)!({ signal: AbortSignal.timeout(1_000) })
  const check = (name: string): { ok?: boolean } => run(name) as { ok?: boolean }
  t.match(check('bus'), { ok: true }, 'nobody listens yet')
  t.match(await run('redis'), { details: { status: 'ready' } })

  const gaps: unknown[] = []
  const onGap = (message: unknown): void => void gaps.push(message)
  subscribe('flotilla:redis:gap', onGap)
  t.teardown(() => unsubscribe('flotilla:redis:gap', onGap))
  const heard = record(app.bus)
  await app.bus.ready()
  await until(() => app.bus.status().lastProbeAt)
  t.match(check('bus'), { ok: true })

  // The check is asked in the moment of each gap: a new connection may be there too soon for a look from outside.
  const wellAt: (boolean | undefined)[] = []
  app.bus.onGap(() => wellAt.push(check('bus').ok))
  const [socket] = await subscriberSockets(server)
  // The connection stays established, and nothing is read from it any more.
  socket!.pause()
  await until(() => heard.includes('recovered'))
  t.equal(wellAt[0], false, 'the check fails while nothing arrives')
  await app.bus.publish('news', 'after')
  await until(() => heard.includes('after'))
  await until(() => check('bus').ok, { message: 'the check is well again' })
  t.match(gaps, [
    { reason: 'probe-lost', recovered: false, instance: app.bus.instance },
    { reason: 'probe-lost', recovered: true, instance: app.bus.instance }
  ])
})

void test('without the bus, the heartbeat of the connection finds it', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url, commandTimeout: 200 })
  const subscriber = resolveSubscriber(app, app.redis)
  await app.ready()
  const heard: string[] = []
  await subscriber.subscribe('room', (message) => heard.push(message.toString()))
  const gaps: string[] = []
  subscriber.onGap(({ reason, recovered }) => gaps.push(`${reason} ${recovered}`))
  const [socket] = await subscriberSockets(server)
  socket!.pause()
  await until(() => gaps.length === 2)
  t.same(gaps, ['silent false', 'silent true'])
  await publishTo(app.redis, 'room', 'after')
  await until(() => heard.includes('after'))
})

void test('what handlers throw is logged and harms nobody', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const lines: string[] = []
  const app = Fastify({ logger: { stream: { write: (line: string) => void lines.push(line) } } })
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url, bus })
  const subscriber = resolveSubscriber(app, app.redis)
  await app.ready()
  const bad = (): void => {
    throw new Error('handler failed')
  }
  app.bus.subscribe('news', bad)
  // What a handler written without types may return.
  const late: () => unknown = async () => bad()
  app.bus.subscribe('news', late)
  app.bus.onGap(bad)
  subscriber.onGap(bad)
  await subscriber.subscribe('flotilla:bus', bad)
  const heard = record(app.bus)
  await app.bus.ready()
  await app.redis.publish('flotilla:bus', 'no JSON')
  await app.redis.publish('flotilla:bus', '{"t":1}')
  await app.bus.publish('news', 1)
  await until(() => heard.includes(1))
  await server.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(() => heard.includes('recovered'))
  t.ok(lines.filter((line) => line.includes('handler failed')).length >= 6)
})

void test('the connection is lost again while the second half of the channels is subscribed: told again', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  // SSUBSCRIBE does not get through while it is held back.
  const network = { holding: false, refusing: false, sockets: new Set<Socket>() }
  const proxy = createServer((socket) => {
    if (network.refusing) return socket.destroy()
    const upstream = connect(server.port, server.host)
    for (const one of [socket, upstream]) network.sockets.add(one.on('error', () => {}))
    upstream.pipe(socket)
    socket.on('data', (data) => {
      const at = network.holding ? data.toString('latin1').search(/\*\d+\r\n\$10\r\nssubscribe/) : -1
      upstream.write(at === -1 ? data : data.subarray(0, at))
    })
    socket.on('close', () => upstream.destroy())
    return upstream.on('close', () => socket.destroy())
  }).listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  t.teardown(() => proxy.close())
  const { port } = proxy.address() as AddressInfo
  const app = await startApp(t, { url: server.url.replace(`:${server.port}`, `:${port}`) })
  const other = await startApp(t, { url: server.url })
  const subscriber = resolveSubscriber(app, app.redis)
  await app.ready()
  const heard = record(app.bus)
  await app.bus.ready()
  await subscriber.subscribe('room', () => {}, { sharded: true })

  network.holding = true
  await server.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(() => heard.includes('recovered'))
  t.same(heard, ['lost', 'recovered'])
  network.refusing = true
  network.holding = false
  for (const socket of network.sockets) socket.destroy()
  await until(() => heard.length > 2, { message: 'the second loss is told' })
  await other.bus.publish('news', 'missed')
  t.equal(app.bus.status().connected, false)
  network.refusing = false
  await until(() => heard.length > 3)
  await other.bus.publish('news', 'after')
  await until(() => heard.includes('after'))
  t.same(heard, ['lost', 'recovered', 'lost', 'recovered', 'after'])
})

void test('a channel that Redis refuses fails by itself: the connection of the others stays', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const user = ['ACL', 'SETUSER', 'default', 'resetchannels', '&flotilla:*', '&room:*']
  await server.command(...user, '-ssubscribe')
  const app = await startApp(t, { url: server.url })
  const subscriber = resolveSubscriber(app, app.redis)
  await app.ready()
  const heard = record(app.bus)
  await app.bus.ready()
  const refused = { code: 'FLOTILLA_REDIS_ERR_SUBSCRIBE', message: /refused.*NOPERM/ }
  t.match(await rejection(subscriber.subscribe('room:1', () => {}, { sharded: true })), refused)
  // In one command with others, on which Redis refuses all.
  const rooms: string[] = []
  const [allowed, denied] = await Promise.all([
    subscriber.subscribe('room:2', (message) => rooms.push(message.toString())),
    rejection(subscriber.subscribe('other', () => {}))
  ])
  t.match(denied, refused)
  t.notOk(JSON.stringify(denied.cause).includes('other'), 'without the arguments')
  await publishTo(app.redis, 'room:2', 'hello')
  await app.bus.publish('news', 1)
  await until(() => rooms.includes('hello') && heard.includes(1))
  t.same(heard, [1], 'no gap')
  allowed()

  // One that was held, and is refused when the connection is made anew, is asked for again.
  await subscriber.subscribe('room:3', (message) => rooms.push(message.toString()))
  const gaps: boolean[] = []
  subscriber.onGap(({ channels, recovered }) => void (channels.includes('room:3') && gaps.push(recovered)))
  await server.command('ACL', 'SETUSER', 'default', 'resetchannels', '&flotilla:*')
  await server.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(() => heard.includes('recovered'))
  t.same(gaps, [false])
  await server.command(...user)
  await until(() => gaps.at(-1), { message: 'the channel is back' })
  await publishTo(app.redis, 'room:3', 'again')
  await until(() => rooms.includes('again'))
})
