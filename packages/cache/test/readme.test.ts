import { startRedis } from '@flotilla/testbed'
import Fastify, { type FastifyInstance } from 'fastify'
import { flotillaRedis } from '@flotilla/redis'
import { readFile } from 'node:fs/promises'
import t from 'tap'
import { flotillaCache } from '../src/index.js'

const readme = await readFile(new URL('../README.md', import.meta.url), 'utf8')

t.test('every example runs, and does what its comments say', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const blocks = [...readme.matchAll(/```js\n([\s\S]*?)```/g)].map(([, code]) => code!)
  t.equal(blocks.length, 8)
  const db = {
    calls: 0,
    user: (id: unknown) => ({ id: Number(id), guest: true, n: ++db.calls }),
    posts: () => [{ id: 1 }],
    article: (id: string) => ({ id, n: ++db.calls }),
    save: (id: string) => ({ id })
  }
  let app: FastifyInstance | undefined
  let after: unknown
  for (const code of blocks) {
    // What a comment says a value is, it is.
    const checked = code
      .replaceAll(/^import .*$/gm, '')
      .replaceAll(
        /^(await .*?) \/\/ (\{.*?\}|\[.*?\])(;.*)?$/gm,
        (_all, call: string, value: string) => `same(${call}, ${value})`
      )
      .replace('const app = Fastify()', 'app = Fastify()')
    const AsyncFunction = (async () => {}).constructor as new (
      ...args: string[]
    ) => (...args: unknown[]) => Promise<FastifyInstance>
    const names = {
      app,
      db,
      Fastify,
      redis: flotillaRedis,
      cache: flotillaCache,
      same: t.same.bind(t),
      process: { env: { REDIS_URL: redis.url } }
    }
    const run = new AsyncFunction(...Object.keys(names), `${checked}\nreturn app`)
    if (code.includes('app.db.')) {
      app!.decorate('db', {
        token: () => 'token',
        read: { after: (token: unknown) => ((after = token), { query: async () => ({ fresh: true }) }) }
      } as never)
    }
    app = await run(...Object.values(names))
    if (code.includes('import')) t.teardown(() => app!.close())
  }
  t.equal(after, 'token', 'the factory was told what to read after')
  const get = async (url: string): Promise<string> => (await app!.inject(url)).body
  t.equal(await get('/users/7'), await get('/users/7'))
  t.equal(await get('/posts'), '[{"id":1}]')
  const first = await get('/articles/1')
  t.equal(await get('/articles/1'), first)
  await app!.inject({ method: 'PUT', url: '/articles/1' })
  const second = await get('/articles/1')
  t.not(second, first)
  await app!.cache.invalidateTags(['article:1'])
  t.not(await get('/articles/1'), second)
})

t.test('every option is in the tables, and every error code is thrown by that name', async (t) => {
  const options = await readFile(new URL('../src/options.ts', import.meta.url), 'utf8')
  const declared = [...options.matchAll(/^ {2}(\w+)\?: /gm)].map(([, name]) => name!)
  for (const name of declared) t.match(readme, `\`${name}\``, name)
})
