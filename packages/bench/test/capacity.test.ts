import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { test } from 'tap'
import { costs } from '../src/capacity/page.js'
import { ASSUMED, size } from '../src/capacity/plan.js'

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
  for (const what of ['idle socket', 'delivered message', 'request', 'publish', 'routed query', 'pg query'])
    t.ok((figures.get(what) ?? 0) > 0, what)
  for (const what of figures.keys()) t.match(stdout, what)
})

test('a count that is no number is refused', async (t) => {
  await t.rejects(run(process.execPath, [MAIN, '--count', 'many']), { code: 2, stderr: /--count must be/ })
})

test('the capacity page says what the arithmetic gives', async (t) => {
  const page = await readFile(new URL('../../../docker/CAPACITY.md', import.meta.url), 'utf8')
  t.ok(page.includes(costs()), 'costs as in plan.ts')
  const { stdout } = await run(process.execPath, [MAIN, '--users', '10000,1000000,100000000'])
  t.ok(page.includes(stdout), 'what that makes: run `npx pnpm capacity --users 10000,1000000,100000000`')
  // Each figure of the assumptions is on the page, in words of its own.
  const { ownWork, socketsPerInstance, redisOperations, replicaReads, primaryWrites } = ASSUMED
  t.equal(ownWork, 1_000)
  for (const figure of [socketsPerInstance, redisOperations, replicaReads, primaryWrites])
    t.match(page, figure.toLocaleString('en-US'))
})

test('a fleet is sized from its users', async (t) => {
  const small = size(10_000)
  t.match(small, {
    fleets: 1,
    users: 10_000,
    sessions: 3_000,
    sockets: 200,
    requests: 20,
    masters: 1,
    instances: 2
  })
  t.equal(size(1_000_000).redisBytes, 100 * small.redisBytes, 'memory grows with users')
  const huge = size(100_000_000)
  t.equal(huge.users * huge.fleets, 100_000_000)
  t.ok(huge.fleets > 1 && huge.busBytes <= ASSUMED.busBytes && huge.writes <= ASSUMED.primaryWrites)
  t.ok(size(huge.users).fleets === 1, 'each of them would do for its users alone')
  t.ok(huge.masters >= 3, 'a Cluster has three masters or more')
})

test('users that are no numbers are refused', async (t) => {
  for (const users of ['0', 'many', '10,', '-5', '1.5'])
    await t.rejects(run(process.execPath, [MAIN, `--users=${users}`]), { code: 2, stderr: /--users must be/ })
})
