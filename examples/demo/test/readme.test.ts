import { readFile, rm, writeFile } from 'node:fs/promises'
import { startPostgres, startRedis, until } from '@flotilla/testbed'
import type { FastifyInstance } from 'fastify'
import { test } from 'tap'

const README = new URL('../../../README.md', import.meta.url)

test('the first example of the README, as it stands, on real servers', async (t) => {
  const [redis, postgres] = await Promise.all([startRedis(), startPostgres({ replicas: 1 })])
  t.teardown(() => Promise.all([redis.stop(), postgres.stop()]))
  const [replica] = postgres.replicas
  if (!replica) throw new Error('no replica was started')
  await postgres.primary.query('CREATE TABLE posts (id serial PRIMARY KEY, text text NOT NULL)')

  const example = /```ts\n(.*?)```/s.exec(await readFile(README, 'utf8'))?.[1]
  if (!example) throw new Error('the README has no example')
  // Beside this file, so that it finds the packages as any app of the workspace does.
  const file = new URL(`./.readme-${process.pid}.ts`, import.meta.url)
  await writeFile(file, `${example}\nexport { app }\n`)
  t.teardown(() => rm(file, { force: true }))
  Object.assign(process.env, {
    REDIS_URL: redis.url,
    SESSION_SECRET: 'a secret for the example, of 32 bytes or more',
    DATABASE_URL: postgres.primary.url,
    DATABASE_REPLICA_URL: replica.url,
    APP_VERSION: '1.2.3',
    PORT: '0'
  })
  const { app } = (await import(file.href)) as { app: FastifyInstance }
  t.teardown(() => app.close())

  const heard: unknown[] = []
  app.bus.subscribe('cache.invalidated', (payload) => heard.push(payload))
  await app.bus.ready()
  const posted = await app.inject({ method: 'POST', url: '/posts', payload: { text: 'hello' } })
  t.equal(posted.statusCode, 200, posted.body)
  t.equal(posted.json<{ id: number }>().id, 1)
  const cookies = Object.fromEntries(posted.cookies.map(({ name, value }) => [name, value]))
  const read = await app.inject({ url: '/posts', cookies })
  t.same(read.json(), [{ id: 1, text: 'hello' }], 'its author reads it back')
  await until(() => heard.length > 0, { message: 'the fleet hears of the invalidation' })
  const health = await app.inject('/health')
  t.match(health.json(), { version: '1.2.3' })
})
