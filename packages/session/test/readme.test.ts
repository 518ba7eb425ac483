import { readFile } from 'node:fs/promises'
import { flotillaRedis } from '@flotilla/redis'
import { startRedis } from '@flotilla/testbed'
import Fastify, { type FastifyInstance } from 'fastify'
import { after, before, test } from 'tap'
import { flotillaSession, type SessionInfo } from '../src/index.js'
import { readOptions } from '../src/options.js'
import { SECRET } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

const readme = await readFile(new URL('../README.md', import.meta.url), 'utf8')

/** The code block that contains a text, as it stands in the README. */
function block(marker: string): string {
  const found = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)]
    .map(([, code]) => code!)
    .filter((code) => code.includes(marker))
  if (found.length !== 1) throw new Error(`${found.length} blocks with ${marker}`)
  return found[0]!
}

/** Runs a block: its names are given, not imported. */
async function run(code: string, names: Record<string, unknown>): Promise<Record<string, unknown>> {
  const body = code
    .replaceAll(/^import .*$/gm, '')
    .replace('const app = Fastify({ trustProxy: true })', 'app = Fastify({ trustProxy: true })')
  const AsyncFunction = (async () => {}).constructor as new (
    ...args: string[]
  ) => (...args: unknown[]) => Promise<Record<string, unknown>>
  return await new AsyncFunction(...Object.keys(names), `${body}\nreturn { app }`)(...Object.values(names))
}

test('every example does what it says', async (t) => {
  const env = { REDIS_URL: redis.url, SESSION_SECRET: SECRET }
  const made = await run(block("import session from '@flotilla/session'"), {
    app: undefined,
    Fastify,
    redis: flotillaRedis,
    session: flotillaSession,
    process: { env }
  })
  const app = made['app'] as FastifyInstance
  for (const marker of ["session.set('theme', 'dark')", "app.post('/login'", "app.get('/health'"])
    await run(block(marker), { app })
  const { browser } = await serve(t, app)
  const https = { 'x-forwarded-proto': 'https' }
  const visitor = browser(https)
  t.same((await visitor.post('/cart', { article: 1 })).body, [{ article: 1 }])
  t.same((await visitor.post('/cart', { article: 2 })).body, [{ article: 1 }, { article: 2 }])
  t.match(visitor.cookie, /^__Host-sid=/)
  await visitor.get('/data')
  const { body } = await visitor.get('/data')
  t.match(body, { theme: 'dark', hits: 2 })
  t.same(new Set(body['keys'] as string[]), new Set(['cart', 'theme', 'visits', 'hits']))
  t.same((await visitor.get('/rarely')).body, { hits: 2 })
  t.equal((await visitor.get('/health')).status, 200)
  t.same((await visitor.post('/login', { user: 'ada' })).body, { user: 'ada' })
  const others = [browser(https), browser(https), browser(https)]
  for (const other of others) await other.post('/login', { user: 'ada' })
  const { body: list } = await visitor.get<SessionInfo[]>('/devices')
  t.equal(list.length, 4)
  t.same(
    Object.keys(list[0]!).filter((key) => readme.includes(key)),
    Object.keys(list[0]!)
  )
  await others[0]!.post('/logout')
  const { ref } = list.find((one) => one.ref !== undefined)!
  t.type(ref, 'string')
  t.same((await visitor.post('/elsewhere/end')).body, { ended: 2, left: 1 })
  const remaining = (await visitor.get<SessionInfo[]>('/devices')).body[0]!.ref
  t.equal((await visitor.post<boolean>(`/devices/${remaining}/end`)).body, true)
  await run(block('const invited'), { app })
  t.equal(await app.sessions.count('ada'), 0)
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
