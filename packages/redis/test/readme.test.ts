import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { mock } from 'node:test'
import { startRedis } from '@flotilla/testbed'
import { test } from 'tap'
import { rejection, startApp } from './fixtures/app.js'

const run = promisify(execFile)
const folder = fileURLToPath(new URL('..', import.meta.url))

void test('every example of the README runs as it stands and ends', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const readme = await readFile(`${folder}README.md`, 'utf8')
  const examples = [...readme.matchAll(/^```ts\n(.*?)^```$/gms)].map((match) => match[1]!)
  t.equal(examples.length, 5)
  // The timers of `node:test` are an experiment of Node.js 20.
  const quiet = ['--disable-warning=ExperimentalWarning']
  for (const example of examples) {
    const { stderr } = await run(process.execPath, [...quiet, '--input-type=module', '--eval', example], {
      cwd: folder,
      env: { PATH: process.env['PATH'], REDIS_URL: server.url },
      timeout: 30_000
    })
    t.equal(stderr, '')
  }
  t.equal(await server.command('GET', 'tickets'), '98')
})

void test('fake timers: what the README says of them', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url })
  const single = await startApp(t, { url: server.url, enableAutoPipelining: false })
  let answered = false
  mock.timers.enable({ apis: ['setImmediate'] })
  const asked = app.redis.get('k').then(() => (answered = true))
  t.equal(await single.redis.set('k', 'v'), 'OK', 'without automatic pipelining nothing waits for it')
  t.notOk(answered, 'held')
  mock.timers.tick(1)
  mock.timers.reset()
  await asked

  server.pause()
  mock.timers.enable({ apis: ['setTimeout'] })
  const hung = rejection(app.redis.get('k'))
  await new Promise((resolve) => setImmediate(resolve))
  mock.timers.tick(60_000)
  t.match(await hung, { message: 'Command timed out' })
  mock.timers.reset()
  server.resume()
})
