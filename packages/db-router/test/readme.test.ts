import { startPostgres } from '@flotilla/testbed'
import type { FastifyInstance } from 'fastify'
import { execFile } from 'node:child_process'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'

const run = promisify(execFile)

/** What the compiler says of a file in a strict project. */
async function compile(file: URL): Promise<string> {
  const tsc = new URL('../../../node_modules/typescript/lib/tsc.js', import.meta.url)
  const options =
    '--noEmit --ignoreConfig --strict --exactOptionalPropertyTypes --module nodenext --target es2023 --types node --skipLibCheck'
  try {
    const args = [fileURLToPath(tsc), ...options.split(' '), fileURLToPath(file)]
    await run(process.execPath, args, { cwd: new URL('.', import.meta.url) })
    return ''
  } catch (error) {
    const { message, stdout } = error as Error & { stdout: string }
    return `${message}\n${stdout}`
  }
}

t.test('every example of the README compiles and runs', async (sub) => {
  const postgres = await startPostgres({ replicas: 1 })
  sub.teardown(() => postgres.stop())
  await postgres.primary.query(
    'create table posts (id serial primary key, body text, likes int not null default 0); create table accounts (id int, balance int)'
  )
  await postgres.primary.query('insert into accounts values (1, 100)')
  await postgres.waitForCatchUp()
  process.env['DATABASE_URL'] = postgres.primary.url
  process.env['DATABASE_REPLICA_URL'] = postgres.replicas[0]!.url
  process.env['PORT'] = '0'
  process.env['DB_SECRET'] = 'for the examples, thirty-two bytes and more'

  const text = await readFile(new URL('../README.md', import.meta.url), 'utf8')
  const examples = [...text.matchAll(/^```ts\n(.*?)^```/gms)].map(([, code]) => code!)
  sub.equal(examples.length, 6)
  const imports: string[] = []
  const last: string[] = []
  const code = examples.join('\n').replaceAll(/^(?:import |await app\.listen).*\n/gm, (line) => {
    if (line.startsWith('import')) imports.push(line.replace("'@flotilla/db-router'", "'../src/index.js'"))
    else last.push(line)
    return ''
  })
  const file = new URL(`.readme-${process.pid}.ts`, import.meta.url)
  await writeFile(
    file,
    `${imports.join('')}\n${code}\n${last.join('')}export { app, orm, kysely, builder, balance }\n`
  )
  sub.teardown(() => rm(file, { force: true }))
  sub.equal(await compile(file), '')
  const shown = (await import(file.href)) as {
    app: FastifyInstance
    balance: number
    orm: { read: { execute(text: string): Promise<{ rows: unknown[] }> } }
    kysely: { selectFrom(table: string): { selectAll(): { execute(): Promise<unknown[]> } } }
    builder: (table: string) => Promise<unknown[]>
  }
  const { app } = shown
  sub.teardown(() => app.close())
  sub.ok(app.server.listening)

  const made = await app.inject({ method: 'POST', url: '/posts' })
  const cookie = (made.headers['set-cookie'] as string).split(';')[0]!
  const { id } = made.json<{ id: number }>()
  sub.match((await app.inject({ url: `/posts/${id}`, headers: { cookie } })).json(), { id, body: 'hello' })
  sub.equal(shown.balance, 90)
  const { token } = (await app.inject({ method: 'POST', url: `/likes/${id}` })).json<{ token: string }>()
  sub.strictSame((await app.inject(`/likes/${id}?token=${token}`)).json(), { likes: 1 })
  sub.strictSame((await shown.orm.read.execute('select 1 as one')).rows, [{ one: 1 }])
  sub.equal((await shown.kysely.selectFrom('accounts').selectAll().execute()).length, 1)
  sub.equal((await shown.builder('accounts')).length, 1)
})
