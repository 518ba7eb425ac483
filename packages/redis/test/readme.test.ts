import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { startRedis } from '@flotilla/testbed'
import { test } from 'tap'

const run = promisify(execFile)
const folder = fileURLToPath(new URL('..', import.meta.url))

void test('every example of the README runs as it stands and ends', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const readme = await readFile(`${folder}README.md`, 'utf8')
  const examples = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map((match) => match[1]!)
  t.equal(examples.length, 3)
  for (const example of examples) {
    const { stderr } = await run(process.execPath, ['--input-type=module', '--eval', example], {
      cwd: folder,
      env: { PATH: process.env['PATH'], REDIS_URL: server.url },
      timeout: 30_000
    })
    t.equal(stderr, '')
  }
  t.equal(await server.command('GET', 'tickets'), '98')
})
