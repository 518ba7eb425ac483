import rateLimit from '@fastify/rate-limit'
import { onEachTopology, startRedis, until } from '@flotilla/testbed'
import { Queue, Worker, type Processor } from 'bullmq'
import type { FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import { once } from 'node:events'
import { test, type Test } from 'tap'
import { duplicateForBlocking, isCluster, type RedisClient } from '../src/index.js'
import { rejection, startApp, type Teardown } from './fixtures/app.js'

/** What CLIENT LIST says of each connection that waits in a blocking command. */
async function blocked(client: RedisClient): Promise<{ name: string; idle: number }[]> {
  const nodes = isCluster(client) ? client.nodes('master') : [client]
  const lists = await Promise.all(nodes.map((node) => node.client('LIST')))
  return lists
    .flatMap((list) => String(list).split('\n'))
    .filter((line) => /\bflags=\w*b/.test(line))
    .map((line) => ({ name: /\bname=(\S*)/.exec(line)![1]!, idle: Number(/\bidle=(\d+)/.exec(line)![1]) }))
}

/** Waits until `count` connections have waited in a blocking command for `seconds` at least. */
async function untilBlocked(client: RedisClient, count: number, seconds = 0): Promise<void> {
  const message = `${count} connections have waited in a blocking command for ${seconds} s`
  await until(async () => (await blocked(client)).filter(({ idle }) => idle >= seconds).length >= count, {
    timeout: 60_000,
    message
  })
}

/** BullMQ's queue on the shared client and a worker on a client for blocking. Both end with the test, also when it fails. */
function startQueue(t: Teardown, app: FastifyInstance, work: Processor, options: { prefix?: string } = {}) {
  const queue = new Queue('mail', { connection: app.redis, ...options })
  const worker = new Worker('mail', work, {
    connection: duplicateForBlocking(app.redis) as Redis,
    concurrency: 4,
    // After a failure of the connection a worker of BullMQ waits for 15 s by default.
    runRetryDelay: 250,
    ...options
  })
  const failures: Error[] = []
  worker.on('error', (error) => failures.push(error))
  queue.on('error', (error) => failures.push(error))
  t.teardown(async () => {
    await worker.close(true)
    await queue.close()
  })
  return { queue, worker, failures }
}

void test('a command that waits for longer than commandTimeout', async (suite) => {
  await onEachTopology(suite, async (t: Test, { url }) => {
    const app = await startApp(t, { url, keyPrefix: 'app:', commandTimeout: 500 })
    // As it is without: the shared client ends it.
    t.match(await rejection(app.redis.blpop('jobs', 0)), { message: 'Command timed out' })
    const blocking = duplicateForBlocking(app.redis)
    const other = duplicateForBlocking(app.redis, { keyPrefix: '', connectionName: 'blocking' })
    const popped = blocking.blpop('jobs:{1}', 0)
    const wire = other.blpop('app:jobs:{2}', 0)
    // Twice commandTimeout is what a silent connection of the shared client is given.
    await untilBlocked(app.redis, 2, 2)
    await app.redis.rpush('jobs:{1}', 'one')
    await app.redis.rpush('jobs:{2}', 'two')
    t.same(await popped, ['app:jobs:{1}', 'one'])
    t.same(await wire, ['app:jobs:{2}', 'two'])
    const ended = Promise.all([once(blocking, 'end'), once(other, 'end')])
    await app.close()
    await ended
  })
})

void test('an app that closes while Redis is away ends what waits in Redis', async (suite) => {
  await onEachTopology(suite, async (t: Test, { url, redis }) => {
    const app = await startApp(t, { url })
    const blocking = duplicateForBlocking(app.redis)
    const popped = rejection(blocking.blpop('jobs', 0))
    await untilBlocked(app.redis, 1)
    const ended = Promise.all([once(blocking, 'end'), once(app.redis, 'end')])
    await redis.stop()
    await until(() => app.redis.status === 'reconnecting', { timeout: 60_000 })
    await app.close()
    await ended
    t.match(await popped, Error)
    t.same([blocking.status, app.redis.status], ['end', 'end'])
  })
})

void test('BullMQ: a queue on the shared client, a worker on a client for blocking', async (suite) => {
  await onEachTopology(suite, async (t: Test, { url }) => {
    const app = await startApp(t, { url, commandTimeout: 500 })
    const done: unknown[] = []
    const work: Processor = async (job) => {
      done.push(job.data)
      return 'sent'
    }
    const { queue, worker, failures } = startQueue(t, app, work, { prefix: '{queues}' })
    await worker.waitUntilReady()
    await queue.add('letter', { n: 0 })
    await until(() => done.length === 1)
    // Idle for longer than a command of the shared client, or a silent connection, may take.
    await untilBlocked(app.redis, 1, 2)
    await queue.addBulk(Array.from({ length: 20 }, (_none, n) => ({ name: 'letter', data: { n: n + 1 } })))
    await queue.add('later', { n: 21 }, { delay: 200 })
    await until(() => done.length === 22, { timeout: 60_000 })
    t.same(
      done.map((data) => (data as { n: number }).n).sort((a, b) => a - b),
      Array.from({ length: 22 }, (_none, n) => n)
    )
    await until(async () => (await queue.getJobCounts('completed'))['completed'] === 22)
    t.equal(await app.redis.ping(), 'PONG')
    await worker.close()
    await queue.close()
    t.same(failures, [], 'queue and worker met no error')
    t.equal(await app.redis.ping(), 'PONG', 'BullMQ leaves the shared client open')
  })
})

void test('BullMQ: a worker goes on after the server was away', async (t) => {
  const server = await startRedis({ durable: true })
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url, commandTimeout: 2_000 })
  const done: unknown[] = []
  const { queue, worker } = startQueue(t, app, async (job) => done.push(job.data))
  await worker.waitUntilReady()
  await untilBlocked(app.redis, 1)
  await server.kill()
  await until(() => app.redis.status !== 'ready')
  await server.restart()
  await until(() => app.redis.status === 'ready', { timeout: 60_000 })
  await queue.add('letter', 1)
  await until(() => done.length === 1, { timeout: 60_000 })
  await worker.close()
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
