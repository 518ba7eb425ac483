import { listen, startCluster, startProxy, startRedis, until } from '@flotilla/testbed'
import Fastify from 'fastify'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { inspect } from 'node:util'
import { test, type Test } from 'tap'
import redis, { isCluster, type RedisClient } from '../src/index.js'
import { rejection, startApp } from './fixtures/app.js'

/** Two callers get their own replies, and nothing is left over for a third. */
async function repliesAreInPlace(t: Test, client: RedisClient): Promise<void> {
  await until(() => client.mset('{k}a', 'of a', '{k}b', 'of b'))
  for (let round = 0; round < 3; round++) {
    t.same(await Promise.all([client.get('{k}a'), client.get('{k}b')]), ['of a', 'of b'])
  }
  for (const connection of isCluster(client) ? client.nodes('master') : [client]) {
    t.equal((connection as unknown as { commandQueue: { length: number } }).commandQueue.length, 0)
  }
}

/** The thread is held up for `ms` after the first command of the next pipeline has been handed over. */
function holdUpPipeline(client: RedisClient, ms: number): void {
  const send = client.sendCommand
  client.sendCommand = (...args: unknown[]) => {
    client.sendCommand = send
    const result: unknown = Reflect.apply(send, client, args)
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
    return result
  }
}

/** The one server of a topology, and an app whose client connects again as soon as that is back. */
async function start(t: Test, topology: 'single' | 'cluster', limit: number) {
  const cluster =
    topology === 'cluster' &&
    // A node that has never met another does not know its own address.
    (await startCluster({ masters: 1, replicas: 0, args: ['--cluster-announce-ip', '127.0.0.1'] }))
  const server = cluster ? cluster.nodes[0]! : await startRedis()
  t.teardown(() => (cluster || server).stop())
  const { redis: client } = await startApp(t, {
    url: (cluster || server).url,
    commandTimeout: limit,
    maxRetriesPerRequest: null,
    retryStrategy: () => 20,
    clusterRetryStrategy: () => 20
  })
  const fail = async (): Promise<void> => {
    await Promise.all([new Promise((resolve) => client.once('close', resolve)), server.kill()])
  }
  const mend = async (): Promise<void> => {
    await server.restart()
    await until(() => client.status === 'ready')
  }
  return { client, server, fail, mend }
}

for (const topology of ['single', 'cluster'] as const) {
  void test(`${topology}: a pipeline is refused whole, whatever commands it has`, async (t) => {
    const { client, fail, mend } = await start(t, topology, 1_000)
    await fail()
    await until(async () => (await rejection(client.get('k'))).code === 'FLOTILLA_REDIS_ERR_UNAVAILABLE')
    const pipeline = client.pipeline().info('server').get('{k}a').client('ID').exec()
    await mend()
    const results = await pipeline
    t.match(
      results,
      Array.from({ length: 3 }, () => [{ code: 'FLOTILLA_REDIS_ERR_UNAVAILABLE' }])
    )
    await repliesAreInPlace(t, client)
  })
}

void test('a pipeline of which one command has timed out is not sent again', async (t) => {
  const { client, server, fail, mend } = await start(t, 'single', 3_000)
  server.pause()
  holdUpPipeline(client, 2_500)
  let first: unknown
  const pipeline = client.pipeline()
  void pipeline.get('{k}a', (error) => void (first = error))
  const results = pipeline.set('{k}late', 1).exec()
  await until(() => first)
  await fail()
  await mend()
  t.match(
    await results,
    Array.from({ length: 2 }, () => [{ message: 'Command timed out' }])
  )
  await repliesAreInPlace(t, client)
  t.equal(await client.get('{k}late'), null)
})

void test('a pipeline goes out whole though the limit of an outage is passed while it is handed over', async (t) => {
  const { client, fail, mend } = await start(t, 'single', 6_000)
  await fail()
  const since = performance.now()
  await until(() => performance.now() - since > 4_500)
  holdUpPipeline(client, 2_000)
  const results = client.pipeline().get('{k}a').get('{k}b').exec()
  await mend()
  t.same(await results, [
    [null, null],
    [null, null]
  ])
  await repliesAreInPlace(t, client)
})

void test('a command that waited is sent once there is a connection, however long the outage was', async (t) => {
  const { client, fail, mend } = await start(t, 'single', 6_000)
  await fail()
  const since = performance.now()
  await until(() => performance.now() - since > 5_000)
  const waiting = client.set('k', 'waited')
  await until(() => performance.now() - since > 6_100)
  await mend()
  t.equal(await waiting, 'OK')
})

void test('another service took the address over: callers and the log are told so', async (t) => {
  const server = await startRedis()
  const proxy = await startProxy(server)
  t.teardown(() => Promise.all([proxy.stop(), server.stop()]))
  const web = createServer((_request, response) => response.end('hello'))
  await once(web.listen(0, '127.0.0.1'), 'listening')
  t.teardown(() => web.close())
  const lines: string[] = []
  const app = Fastify({ logger: { stream: { write: (line: string) => void lines.push(line) } } })
  t.teardown(() => app.close())
  await app.register(redis, { url: proxy.through(server.url), commandTimeout: '300ms' })
  proxy.redirect({ host: '127.0.0.1', port: (web.address() as AddressInfo).port })
  proxy.cut()
  const error = await until(async () => {
    const refused = await rejection(app.redis.get('k'))
    return refused.message.includes('not speak Redis') && refused
  })
  t.match(error, {
    code: 'FLOTILLA_REDIS_ERR_UNAVAILABLE',
    message: /unreachable for \d+ s; 'get' was not tried; what answers there does not speak Redis/
  })
  const told = lines.filter((line) => line.includes('does not speak Redis'))
  t.equal(told.length, 1, 'once, however many attempts')
  t.match(told[0], `cannot use Redis at ${proxy.address}: what answers there does not speak Redis`)
  proxy.redirect(server)
  await until(() => app.redis.get('k').then(() => true))
  t.ok(lines.some((line) => line.includes('Redis is back')))
})

void test('the password was changed: callers and the log are told so, and not the password', async (t) => {
  const server = await startRedis({ password: 'OLDSECRET' })
  t.teardown(() => server.stop())
  const admin = server.client()
  t.teardown(() => admin.disconnect())
  const lines: string[] = []
  const app = Fastify({ logger: { stream: { write: (line: string) => void lines.push(line) } } })
  t.teardown(() => app.close())
  const states = listen<{ state: string }>(t, 'flotilla:redis:connection')
  await app.register(redis, { url: server.url, commandTimeout: '300ms' })
  await app.ready()
  const id = await app.redis.client('ID')
  await admin.config('SET', 'requirepass', 'NEWSECRET')
  await admin.client('KILL', 'ID', String(id))
  const error = await until(async () => {
    const refused = await rejection(app.redis.get('k'))
    return refused.code === 'FLOTILLA_REDIS_ERR_UNAVAILABLE' && refused
  })
  t.match(error.cause, { message: /WRONGPASS/ })
  t.equal(lines.filter((line) => line.includes('WRONGPASS')).length, 1, 'once, however many attempts')
  t.notMatch(inspect(error, { depth: 10 }) + JSON.stringify(error) + lines.join(''), /OLDSECRET/)
  t.ok(states.some(({ state }) => state === 'lost'))
  t.notMatch(inspect(states, { depth: 10 }) + JSON.stringify(states), /OLDSECRET/, 'nor whoever listens')
  await admin.config('SET', 'requirepass', 'OLDSECRET')
  await until(() => app.redis.get('k').then(() => true))
  t.ok(lines.some((line) => line.includes('Redis is back')))
})
