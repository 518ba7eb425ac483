import { connect as connectHttp2 } from 'node:http2'
import { once } from 'node:events'
import { Agent, get, type IncomingMessage } from 'node:http'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { joinHealth } from '@flotilla/core'
import Fastify, { type FastifyInstance } from 'fastify'
import { test } from 'tap'
import { createCertificate, startApp, startProxy, startRedis, until } from '@flotilla/testbed'
import health from '../src/index.js'

const noSignals = { signals: false as const }

async function ask(url: string, agent?: Agent): Promise<{ status: number; body: string }> {
  const [response] = (await once(get(url, agent ? { agent } : {}), 'response')) as [IncomingMessage]
  let body = ''
  for await (const chunk of response) body += String(chunk)
  return { status: response.statusCode!, body }
}

test('app.close() does not wait for keep-alive connections after a request in flight', async (t) => {
  const app = Fastify()
  await app.register(health, { drain: false })
  let arrived = false
  app.get('/slow', async () => {
    arrived = true
    return sleep(300, 'done')
  })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const agent = new Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())
  const slow = ask(`${url}/slow`, agent)
  await until(() => arrived)
  const began = performance.now()
  await app.close()
  t.ok(performance.now() - began < 2000)
  t.match(await slow, { status: 200, body: 'done' })
})

test('a drain without signals: once, in order, and the process lives on', async (t) => {
  const app = Fastify()
  const order: string[] = []
  app.register(async (fastify) => {
    joinHealth(fastify, (joined) => joined.onDrain('sockets', () => void order.push(`step ${joined.state}`)))
  })
  app.register(health, { drain: { ...noSignals, delay: 200, quiet: 0 } })
  app.addHook('preClose', async () => void order.push('preClose'))
  app.addHook('onClose', async () => void order.push('onClose'))
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const states: string[] = []
  const first = app.health.drain()
  t.equal(app.health.state, 'draining')
  states.push((await ask(`${url}/health`)).body)
  const second = app.health.drain()
  t.strictSame(await Promise.all([first, second]), [true, true])
  t.match(states[0], /"draining"/)
  t.strictSame(order, ['step draining', 'preClose', 'onClose'])
  await app.close()
})

test('a drain step that throws is logged and passed over', async (t) => {
  const lines: string[] = []
  const app = Fastify({
    logger: { level: 'error', stream: { write: (line: string) => void lines.push(line) } }
  })
  await app.register(health, { drain: { ...noSignals, delay: 0 } })
  app.health.onDrain('bad', () => {
    throw new Error('no')
  })
  app.health.onDrain('worse', () => Promise.reject(new Error('never')))
  await app.ready()
  t.equal(await app.health.drain(), true)
  t.equal(lines.filter((line) => line.includes('drain step failed')).length, 2)
})

for (const secure of [false, true]) {
  for (const end of ['drain', 'close'] as const) {
    const title = `HTTP/2 ${secure ? 'over TLS ' : ''}sessions are told to go and finish what they have: ${end}`
    test(title, async (t) => {
      const folder = t.testdir()
      const ca = secure ? await createCertificate(folder) : undefined
      const http2 = ca
        ? Fastify({ http2: true, https: { key: await readFile(join(folder, 'server.key')), cert: ca } })
        : Fastify({ http2: true })
      const app = http2 as unknown as FastifyInstance
      await app.register(health, { drain: { ...noSignals, delay: 0 }, metrics: true })
      let arrived = false
      app.get('/slow', async () => {
        arrived = true
        // Longer than an idle connection is left open.
        return sleep(1000, 'done')
      })
      const session = connectHttp2(await app.listen({ port: 0, host: '127.0.0.1' }), ca ? { ca } : {})
      const stream = session.request({ ':path': '/slow' })
      let body = ''
      stream.on('data', (chunk) => (body += String(chunk)))
      await until(() => arrived)
      t.match(
        await app.health.metrics?.metrics(),
        /^flotilla_http_connections(\{.*\})? 1$/m,
        'one connection'
      )
      const gone = once(session, 'close')
      const ended = end === 'drain' ? app.health.drain() : app.close()
      await once(stream, 'end')
      t.equal(body, 'done')
      await gone
      t.not(await ended, false)
    })
  }
}

test('a drain that is asked for while the app closes ends with the close', async (t) => {
  const app = Fastify()
  await app.register(health, { drain: { ...noSignals, delay: 0 } })
  let arrived = false
  let release = (): void => undefined
  app.get('/slow', () => {
    arrived = true
    return new Promise<string>((resolve) => {
      release = () => resolve('done')
    })
  })
  let closed = false
  app.addHook('onClose', async () => {
    await sleep(50)
    closed = true
  })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const slow = ask(`${url}/slow`)
  await until(() => arrived)
  const closing = app.close()
  await until(() => app.health.state === 'draining')
  const drained = app.health.drain().then((clean) => ({ clean, closed }))
  release()
  t.strictSame(await drained, { clean: true, closed: true })
  t.match(await slow, { status: 200, body: 'done' })
  await closing
})

test('after close nothing is left that keeps a process alive', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const script = new URL('./apps/open-and-close.ts', import.meta.url)
  const fleet = await startApp({ script, env: { REDIS_URL: redis.url } })
  t.teardown(() => fleet.stop())
  const [app] = fleet.instances
  const { exited } = app!
  await until(() => !app!.running, { message: 'the process ends by itself' })
  t.strictSame(await exited, { code: 0, signal: null }, app!.output())
})

test('SIGKILL costs only what was in flight there', async (t) => {
  const script = new URL('./apps/instance.ts', import.meta.url)
  const { startHAProxy } = await import('@flotilla/testbed')
  const fleet = await startApp({ script, instances: 2, env: { HEALTH: '{}', LOG_LEVEL: 'warn' } })
  t.teardown(() => fleet.stop())
  const balancer = await startHAProxy({ servers: fleet.instances })
  t.teardown(() => balancer.stop())
  await until(async () => (await ask(balancer.url)).status === 200)
  const [victim, other] = fleet.instances
  const pids = new Set<number>()
  await until(async () => {
    pids.add((JSON.parse((await ask(balancer.url)).body) as { pid: number }).pid)
    return pids.size === 2
  })
  const inFlight = Array.from({ length: 6 }, () =>
    ask(`${balancer.url}/stream?ms=1500`).catch(() => ({ status: 0, body: '' }))
  )
  await sleep(500)
  await victim!.kill('SIGKILL')
  for (let request = 0; request < 100; request++) {
    const { status, body } = await ask(balancer.url)
    if (status !== 200 || (JSON.parse(body) as { pid: number }).pid !== other!.pid)
      t.fail(`${status} ${body}`)
  }
  const complete = (await Promise.all(inFlight)).filter(({ body }) => body.endsWith('9\n')).length
  t.equal(complete, 3, 'half of the streams were on the other instance and are complete')
})

test('a Redis that stops answering does not hold up a drain', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const proxy = await startProxy({ host: redis.host, port: redis.port })
  t.teardown(() => proxy.stop())
  const app = Fastify()
  const { flotillaRedis } = await import('@flotilla/redis')
  await app.register(flotillaRedis, { url: proxy.through(redis.url), commandTimeout: 1000 })
  await app.register(health, { drain: { ...noSignals, delay: 0, timeout: 5000 }, fleet: { lease: 600 } })
  await app.ready()
  await until(async () => (await app.health.fleet()).instances.length === 1)
  proxy.blackhole()
  const began = performance.now()
  t.equal(await app.health.drain(), true)
  t.ok(performance.now() - began < 4000)
})
