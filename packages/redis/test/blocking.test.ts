import rateLimit from '@fastify/rate-limit'
import { onEachTopology, startRedis, until } from '@flotilla/testbed'
import { Queue, Worker } from 'bullmq'
import type { Redis } from 'ioredis'
import { once } from 'node:events'
import { test, type Test } from 'tap'
import { duplicateForBlocking, isCluster, type RedisClient } from '../src/index.js'
import { rejection, startApp } from './fixtures/app.js'

/** Connections that the servers count as blocked. */
async function blockedOn(client: RedisClient): Promise<number> {
  const nodes = isCluster(client) ? client.nodes('master') : [client]
  const infos = await Promise.all(nodes.map((node) => node.info('clients')))
  return infos.reduce((sum, info) => sum + Number(/^blocked_clients:(\d+)/m.exec(info)?.[1]), 0)
}

void test('a command that waits for longer than commandTimeout', async (suite) => {
  await onEachTopology(suite, async (t: Test, { url }) => {
    const app = await startApp(t, { url, keyPrefix: 'app:', commandTimeout: 200 })
    // As it is without: the shared client ends it.
    t.match(await rejection(app.redis.blpop('jobs', 0)), { message: 'Command timed out' })
    const blocking = duplicateForBlocking(app.redis)
    const other = duplicateForBlocking(app.redis, { keyPrefix: '', connectionName: 'blocking' })
    const popped = blocking.blpop('jobs:{1}', 0)
    const wire = other.blpop('app:jobs:{2}', 0)
    await until(async () => (await blockedOn(app.redis)) >= 2)
    // Twice commandTimeout is what a silent connection of the shared client is given.
    await new Promise((resolve) => setTimeout(resolve, 900))
    await app.redis.rpush('jobs:{1}', 'one')
    await app.redis.rpush('jobs:{2}', 'two')
    t.same(await popped, ['app:jobs:{1}', 'one'])
    t.same(await wire, ['app:jobs:{2}', 'two'])
    const ended = Promise.all([once(blocking, 'end'), once(other, 'end')])
    await app.close()
    await ended
  })
})

void test('BullMQ: a queue on the shared client, a worker on a client for blocking', async (suite) => {
  await onEachTopology(suite, async (t: Test, { url }) => {
    const app = await startApp(t, { url, commandTimeout: 500 })
    const prefix = '{queues}'
    const queue = new Queue('mail', { connection: app.redis, prefix })
    const done: unknown[] = []
    const failures: Error[] = []
    const worker = new Worker(
      'mail',
      async (job) => {
        done.push(job.data)
        return 'sent'
      },
      { connection: duplicateForBlocking(app.redis) as Redis, prefix, concurrency: 4 }
    )
    worker.on('error', (error) => failures.push(error))
    await worker.waitUntilReady()
    await queue.add('letter', { n: 0 })
    await until(() => done.length === 1)
    // Idle for longer than a command of the shared client, or a silent connection, may take.
    await until(async () => (await blockedOn(app.redis)) > 0)
    await new Promise((resolve) => setTimeout(resolve, 1_500))
    await queue.addBulk(Array.from({ length: 20 }, (_none, n) => ({ name: 'letter', data: { n: n + 1 } })))
    await queue.add('later', { n: 21 }, { delay: 200 })
    await until(() => done.length === 22)
    t.same(
      done.map((data) => (data as { n: number }).n).sort((a, b) => a - b),
      Array.from({ length: 22 }, (_none, n) => n)
    )
    t.same(failures, [], 'the worker met no error')
    await until(async () => (await queue.getJobCounts('completed'))['completed'] === 22)
    t.equal(await app.redis.ping(), 'PONG')
    await worker.close()
    await queue.close()
    t.equal(await app.redis.ping(), 'PONG', 'BullMQ leaves the shared client open')
    await app.close()
  })
})

void test('BullMQ: a worker goes on after the server was away', async (t) => {
  const server = await startRedis({ durable: true })
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url, commandTimeout: 500 })
  const queue = new Queue('mail', { connection: app.redis })
  const done: unknown[] = []
  const worker = new Worker('mail', async (job) => done.push(job.data), {
    connection: duplicateForBlocking(app.redis) as Redis
  })
  worker.on('error', () => {})
  queue.on('error', () => {})
  await worker.waitUntilReady()
  await server.kill()
  await until(() => app.redis.status !== 'ready')
  await server.restart()
  await until(() => app.redis.status === 'ready')
  await queue.add('letter', 1)
  await until(() => done.length === 1)
  await worker.close()
  await queue.close()
})

void test('@fastify/rate-limit counts for the fleet through the shared client', async (suite) => {
  await onEachTopology(suite, async (t: Test, { url }) => {
    const fleet = await Promise.all(
      ['one', 'two'].map(async (instance) => {
        const app = await startApp(t, { url, instance, keyPrefix: 'app:' })
        await app.register(rateLimit, { max: 3, timeWindow: 60_000, redis: app.redis })
        app.get('/', async () => 'hello')
        return app
      })
    )
    const statuses: number[] = []
    for (let n = 0; n < 3; n++) {
      for (const app of fleet) statuses.push((await app.inject('/')).statusCode)
    }
    t.same(statuses, [200, 200, 200, 429, 429, 429])
    const other = await fleet[0]!.inject({ url: '/', remoteAddress: '10.0.0.9' })
    t.equal(other.statusCode, 200, 'another visitor is counted apart')
    await Promise.all(fleet.map((app) => app.close()))
  })
})
