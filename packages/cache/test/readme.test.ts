import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { startRedis } from '@flotilla/testbed'
import t from 'tap'

const run = promisify(execFile)
const folder = fileURLToPath(new URL('..', import.meta.url))
const readme = await readFile(join(folder, 'README.md'), 'utf8')

/** What the examples take for granted: data, and the part of a database router that they use. */
const BEFORE = `
declare module 'fastify' {
  interface FastifyInstance {
    db: { token(): string | undefined; read: { after(token: string | undefined): { query(sql: string): Promise<unknown> } } }
  }
}
let calls = 0
let after: unknown
const db = {
  user: async (id: string | number, _options?: { signal: AbortSignal }): Promise<{ id: number; n: number; guest?: boolean; secret?: boolean }> =>
    ({ id: Number(id), guest: true, n: ++calls }),
  users: async (keys: readonly string[]): Promise<Map<string, object>> => new Map(keys.map((key) => [key, {}])),
  posts: () => [{ id: 1 }],
  article: (id: string) => ({ id, n: ++calls }),
  save: (id: string) => ({ id })
}
`

/** Tells what the examples do. */
const AFTER = `
const get = async (url: string): Promise<string> => (await app.inject(url)).body
const bodies = [await get('/users/7'), await get('/users/7'), await get('/posts'), await get('/articles/1'), await get('/articles/1')]
await app.inject({ method: 'PUT', url: '/articles/1' })
bodies.push(await get('/articles/1'))
await app.cache.invalidateTags(['article:1'])
bodies.push(await get('/articles/1'))
console.log(JSON.stringify({ after, bodies }))
await app.close()
`

t.test('all examples, one after another, compile strictly and do what their comments say', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const examples = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code!)
  t.equal(examples.length, 8)
  const listen = 'await app.listen({ port: 3000 })\n'
  const decorate = `app.decorate('db', { token: () => 'token', read: { after: (token) => ((after = token), { query: async () => ({ fresh: true }) }) } })\n`
  const program = examples
    .join('\n')
    .replace(listen, decorate)
    // What a comment says a value is, it is.
    .replaceAll(/^(await .*?) \/\/ (\{.*?\}|\[.*?\])(;.*)?$/gm, 'deepEqual($1, $2)')
  const made = await mkdtemp(join(folder, 'test', 'examples-'))
  t.teardown(() => rm(made, { recursive: true }))
  const file = join(made, 'all.ts')
  await writeFile(
    file,
    `import { deepEqual } from 'node:assert/strict'\n${BEFORE}${program}${AFTER.replace('await app.close()', `${listen.replace('3000', '0')}$&`)}`
  )
  const options =
    '--ignoreConfig --noEmit --strict --exactOptionalPropertyTypes --module nodenext --target es2023 --types node'
  const tsc = join(folder, '../../node_modules/.bin/tsc')
  // Without what the test runner has every process load.
  const compiled = await run('env', ['-u', 'NODE_OPTIONS', tsc, ...options.split(' '), file], {
    cwd: folder
  }).catch((error: { stdout: string; stderr: string }) => error)
  t.equal(compiled.stdout + compiled.stderr, '')
  const { stdout } = await run(process.execPath, ['--import', 'tsx', file], {
    cwd: folder,
    env: { PATH: process.env['PATH'], REDIS_URL: redis.url },
    timeout: 30_000
  })
  const { after, bodies } = JSON.parse(stdout) as { after: string; bodies: string[] }
  t.equal(after, 'token', 'the factory was told what to read after')
  const [user, again, posts, article, same, changed, purged] = bodies
  t.equal(user, again)
  t.equal(posts, '[{"id":1}]')
  t.equal(article, same)
  t.not(changed, article)
  t.not(purged, changed)
})

t.test('every option is in the tables, and every error code is thrown by that name', async (t) => {
  const options = await readFile(new URL('../src/options.ts', import.meta.url), 'utf8')
  const declared = [...options.matchAll(/^ {2}(\w+)\?: /gm)].map(([, name]) => name!)
  for (const name of declared) t.match(readme, `\`${name}\``, name)
})
