import { execFile } from 'node:child_process'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { flotillaRedis } from '@flotilla/redis'
import { startRedis } from '@flotilla/testbed'
import Fastify, { type FastifyInstance } from 'fastify'
import { after, before, test } from 'tap'
import { flotillaSession, type SessionInfo } from '../src/index.js'
import { readOptions } from '../src/options.js'
import { addRoutes, SECRET } from './support/app.js'
import { serve } from './support/serve.js'

const start = promisify(execFile)

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

const readme = await readFile(new URL('../README.md', import.meta.url), 'utf8')

/** The examples in their order, as one program that runs on what is tested here. */
const program = `${[...readme.matchAll(/^```ts\n(.*?)^```/gms)]
  .map(([, code]) => code!)
  .join('\n')
  .replaceAll("'@flotilla/session'", "'../src/index.js'")}
export { app }
`

test('every example compiles, strictly, and does what it says', async (t) => {
  const file = new URL(`.readme-${process.pid}.ts`, import.meta.url)
  await writeFile(file, program)
  t.teardown(() => rm(file, { force: true }))
  const tsc = join(fileURLToPath(new URL('../../..', import.meta.url)), 'node_modules', '.bin', 'tsc')
  const options =
    '--noEmit --ignoreConfig --strict --exactOptionalPropertyTypes --skipLibCheck --module nodenext --target es2023 --types node'
  const compiled = await start(tsc, [...options.split(' '), fileURLToPath(file)], {
    cwd: fileURLToPath(new URL('..', import.meta.url))
  }).catch((error: { stdout: string }) => error)
  t.equal(compiled.stdout, '')

  process.env['REDIS_URL'] = redis.url
  process.env['SESSION_SECRET'] = SECRET
  const { app } = (await import(file.href)) as { app: FastifyInstance }
  const { browser } = await serve(t, app)
  const https = { 'x-forwarded-proto': 'https' }
  const visitor = browser(https)
  t.same((await visitor.post('/cart', { id: 1 })).body, [{ id: 1 }])
  t.same((await visitor.post('/cart', { id: 2 })).body, [{ id: 1 }, { id: 2 }])
  t.match(visitor.cookie, /^__Host-sid=/)
  t.same((await visitor.get('/count')).body, { articles: 2 })
  await visitor.get('/data')
  const { body } = await visitor.get('/data')
  t.match(body, { theme: 'dark', hits: 2 })
  t.same(new Set(body['keys'] as string[]), new Set(['cart', 'theme', 'visits', 'hits']))
  t.same((await visitor.get('/rarely')).body, { hits: 2 })
  t.equal((await visitor.get('/health')).status, 200)
  t.equal((await visitor.get('/devices')).status, 401)
  t.same((await visitor.post('/login', { user: 'ada' })).body, { user: 'ada' })
  const others = [browser(https), browser(https), browser(https)]
  for (const other of others) await other.post('/login', { user: 'ada' })
  const { body: list } = await visitor.get<SessionInfo[]>('/devices')
  t.equal(list.length, 4, 'the one made outside a request has ended')
  t.same(
    Object.keys(list[0]!).filter((key) => readme.includes(key)),
    Object.keys(list[0]!)
  )
  await others[0]!.post('/logout')
  t.same((await visitor.post('/elsewhere/end')).body, { ended: 2, left: 1 })
  const remaining = (await visitor.get<SessionInfo[]>('/devices')).body[0]!.ref
  t.equal((await visitor.post<boolean>(`/devices/${remaining}/end`)).body, true)
  t.equal(await app.sessions.count('ada'), 0)
})

test('the option `prefix` is that of the keys in Redis: routes stay where they are', async (t) => {
  const app = Fastify()
  await app.register(flotillaRedis, { url: redis.url, commandTimeout: '10s' })
  await app.register(flotillaSession, { secret: SECRET, prefix: 'shop:', cookie: { secure: 'auto' } })
  addRoutes(app)
  const { browser } = await serve(t, app)
  t.equal((await browser().post('/set', { count: 1 })).status, 200)
  t.equal(((await redis.command('KEYS', 'shop:s:*')) as string[]).length, 1)
})

test('the table of options names all of them, and their defaults', (t) => {
  const settings = readOptions({ secret: SECRET, cookie: {} })
  for (const name of Object.keys(settings)) {
    t.ok(readme.includes(`\`${name}`), `option ${name} is in the README`)
  }
  t.equal(settings.idleTimeout, 30 * 60_000)
  t.equal(settings.absoluteTimeout, 24 * 3_600_000)
  t.equal(settings.maxSize, 256 * 1024)
  t.equal(settings.retryAfter, 5)
  t.equal(settings.cookie.secure, true)
  t.end()
})
