import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { test, type Test } from 'tap'
import { startProxy, startRedis, until, type TcpProxy } from '../src/index.js'

async function echo(t: Test): Promise<{ proxy: TcpProxy; open: () => Promise<Socket> }> {
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.pipe(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const proxy = await startProxy({ host: '127.0.0.1', port })
  t.teardown(async () => {
    await proxy.stop()
    server.close()
  })
  return {
    proxy,
    async open() {
      const socket = connect(proxy.port, proxy.host)
      socket.on('error', () => {})
      await once(socket, 'connect')
      return socket
    }
  }
}

async function roundTrip(socket: Socket, text: string): Promise<string> {
  socket.write(text)
  const [data] = (await once(socket, 'data')) as [Buffer]
  return data.toString()
}

test('bytes pass, both ways, and the end of one side reaches the other', async (t) => {
  const { proxy, open } = await echo(t)
  const socket = await open()
  t.equal(await roundTrip(socket, 'hello'), 'hello')
  t.equal(proxy.connections, 1)
  socket.end()
  await once(socket, 'close')
  await until(() => proxy.connections === 0)
})

test('cut resets what is open; refuse refuses until restore', async (t) => {
  const { proxy, open } = await echo(t)
  const socket = await open()
  await roundTrip(socket, 'hello')
  const failed = new Promise<NodeJS.ErrnoException>((resolve) => socket.once('error', resolve))
  proxy.cut()
  t.equal((await failed).code, 'ECONNRESET')
  t.equal(await roundTrip(await open(), 'again'), 'again', 'new connections work')

  await proxy.refuse()
  const refused = connect(proxy.port, proxy.host)
  const refusal = await new Promise<NodeJS.ErrnoException>((resolve) => refused.once('error', resolve))
  t.equal(refusal.code, 'ECONNREFUSED')
  await proxy.restore()
  t.equal(await roundTrip(await open(), 'back'), 'back')
})

test('delay holds bytes back in both directions and keeps their order', async (t) => {
  const { proxy, open } = await echo(t)
  const socket = await open()
  await roundTrip(socket, 'warm')
  proxy.delay(100)
  const began = performance.now()
  let heard = ''
  socket.on('data', (chunk: Buffer) => (heard += chunk.toString()))
  for (const part of ['a', 'b', 'c']) socket.write(part)
  await until(() => heard === 'abc')
  t.ok(performance.now() - began >= 190, 'there and back')
})

test('a blackhole keeps connections open and silent, and lets nothing be lost', async (t) => {
  const { proxy, open } = await echo(t)
  const socket = await open()
  await roundTrip(socket, 'warm')
  proxy.blackhole()
  let heard = ''
  let ended = false
  socket.on('data', (chunk: Buffer) => (heard += chunk.toString()))
  socket.on('close', () => (ended = true))
  socket.write('lost?')
  const late = await open()
  late.write('hello?')
  await new Promise((resolve) => setTimeout(resolve, 150))
  t.equal(heard, '')
  t.notOk(ended)
  await proxy.restore()
  await until(() => heard === 'lost?')
})

test('replies can be lost while requests arrive', async (t) => {
  const redis = await startRedis({ password: false })
  t.teardown(() => redis.stop())
  const proxy = await startProxy(redis)
  t.teardown(() => proxy.stop())
  const socket = connect(proxy.port, proxy.host)
  socket.on('error', () => {})
  await once(socket, 'connect')
  t.equal(await roundTrip(socket, 'PING\r\n'), '+PONG\r\n')
  let heard = ''
  socket.on('data', (chunk: Buffer) => (heard += chunk.toString()))
  proxy.loseReplies()
  socket.write('INCR n\r\n')
  await until(async () => (await redis.command('GET', 'n')) === '1', { message: 'it was carried out' })
  const closed = new Promise((resolve) => socket.once('close', resolve))
  proxy.cut()
  await closed
  await proxy.restore()
  t.equal(heard, '')
})

test('a URL through the proxy leads to the same server', async (t) => {
  const redis = await startRedis({ password: 'secret' })
  t.teardown(() => redis.stop())
  const proxy = await startProxy(redis)
  t.teardown(() => proxy.stop())
  t.equal(proxy.through(redis.url), `redis://:secret@127.0.0.1:${proxy.port}`)
  t.equal(proxy.through('redis://a:b@elsewhere:1/0'), `redis://a:b@127.0.0.1:${proxy.port}/0`)
})
