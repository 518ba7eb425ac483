import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { test } from 'tap'

const MAIN = fileURLToPath(new URL('../dist/capacity/main.js', import.meta.url))
const run = promisify(execFile)

test('the capacity command measures one of each, as a table and as JSON', async (t) => {
  const out = await mkdtemp(join(tmpdir(), 'flotilla-capacity-'))
  t.teardown(() => rm(out, { recursive: true }))
  const file = join(out, 'costs.json')
  const env = { ...process.env, NODE_OPTIONS: '' }
  const { stdout } = await run(process.execPath, [MAIN, '--count', '500', '--json', file], { env })
  const { costs } = JSON.parse(await readFile(file, 'utf8')) as { costs: { what: string; figure: number }[] }
  const figures = new Map(costs.map(({ what, figure }) => [what, figure]))
  // No payload of 100 characters fits into less, and none of these costs kilobytes in Redis.
  for (const what of ['session', 'cached key', 'history message']) {
    const figure = figures.get(what) ?? 0
    t.ok(figure > 100 && figure < 5_000, `${what}: ${figure}`)
  }
  for (const what of ['idle socket', 'routed query', 'pg query']) t.ok(figures.has(what))
  for (const what of figures.keys()) t.match(stdout, what)
})

test('a count that is no number is refused', async (t) => {
  await t.rejects(run(process.execPath, [MAIN, '--count', 'many']), { code: 2, stderr: /--count must be/ })
})
