// Keeps the table "Tested with" of the README: the exact versions that whole runs of the tests were green with.
// Without an argument it writes the table from the results in .ci/results/.
// `run` runs all tests on this Node.js and the servers that FLOTILLA_SERVERS and FLOTILLA_REDIS name.
// It then records the result.
// `--check` exits with 1 if the table is not what the results say.
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'

const root = new URL('..', import.meta.url)
const results = new URL('results/', import.meta.url)
const page = new URL('README.md', root)
const section = /(<!-- tested-with -->)[^]*?(<!-- \/tested-with -->)/

/** `Redis server v=8.0.6 sha=…`, `nginx version: nginx/1.30.6` → `8.0.6`, `1.30.6`. */
const numberOf = (version) => /\d+(?:\.\d+)+/.exec(version)?.[0] ?? version

/** A whole run: all test files that `.taprc` names, and the figures of its closing line. */
async function runAll() {
  const cli = new URL('packages/testbed/dist/cli.js', root).pathname
  execFileSync('npx', ['pnpm', 'build'], { cwd: root, stdio: 'inherit' })
  const versions = JSON.parse(execFileSync(process.execPath, [cli, '--json'], { encoding: 'utf8' }))
  const child = spawn('npx', ['tap'], { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] })
  let end = ''
  child.stdout.on('data', (chunk) => {
    process.stdout.write(chunk)
    end = (end + chunk).slice(-4_096)
  })
  const status = await new Promise((resolve) => child.once('close', resolve))
  const summary = /^# \{ total: (.*) \}$/m.exec(end)?.[0]
  if (summary === undefined) throw new Error('the run ended without a summary')
  const figure = (name) => Number(new RegExp(`${name}: (\\d+)`).exec(summary)?.[1] ?? 0)
  const redis = versions['redis-server']
  const record = {
    date: new Date().toISOString().slice(0, 10),
    node: process.versions.node,
    redis: `${/^Valkey/i.test(redis) ? 'Valkey' : 'Redis'} ${numberOf(redis)}`,
    postgresql: numberOf(versions['postgres']),
    pgbouncer: numberOf(versions['pgbouncer']),
    nginx: numberOf(versions['nginx']),
    haproxy: numberOf(versions['haproxy']),
    passed: figure('pass'),
    failed: figure('fail'),
    skipped: figure('skip'),
    green: status === 0
  }
  mkdirSync(results, { recursive: true })
  const name = `node-${record.node.split('.')[0]}-${record.redis.toLowerCase().replace(/ (\d+).*/, '-$1')}.json`
  writeFileSync(new URL(name, results), `${JSON.stringify(record, null, 2)}\n`)
  console.log(`recorded in .ci/results/${name}`)
  return status
}

/** The rows of green runs; the others are named, for they have no place in the table. */
function table() {
  const records = files().map((name) => ({
    name,
    ...JSON.parse(readFileSync(new URL(name, results), 'utf8'))
  }))
  for (const { name } of records.filter(({ green }) => !green))
    console.error(`${name} was not green: left out`)
  const rows = records
    .filter(({ green }) => green)
    .sort((a, b) => compare(a.node, b.node) || compare(a.redis, b.redis))
    .map((one) => [
      one.node,
      one.redis,
      one.postgresql,
      one.pgbouncer,
      one.nginx,
      one.haproxy,
      one.passed.toLocaleString('en'),
      one.date
    ])
  if (rows.length === 0) return 'No whole run is recorded yet.'
  const head = [
    'Node.js',
    'Redis or Valkey',
    'PostgreSQL',
    'PgBouncer',
    'nginx',
    'HAProxy',
    'assertions',
    'date'
  ]
  const line = (cells) => `| ${cells.join(' | ')} |`
  return [
    line(head),
    line(head.map((one) => (one === 'assertions' ? '--:' : '---'))),
    ...rows.map(line)
  ].join('\n')
}

function files() {
  try {
    return readdirSync(results).filter((name) => name.endsWith('.json'))
  } catch {
    return []
  }
}

const compare = (a, b) => a.localeCompare(b, 'en', { numeric: true })

const [mode] = process.argv.slice(2)
if (mode === 'run') {
  process.exitCode = await runAll()
} else if (mode === undefined || mode === '--check') {
  const before = readFileSync(page, 'utf8')
  if (!section.test(before)) throw new Error('README.md has no section <!-- tested-with -->')
  const after = before.replace(section, (_all, open, close) => `${open}\n\n${table()}\n\n${close}`)
  if (mode === undefined) writeFileSync(page, after)
  else if (after !== before) {
    console.error(
      'the table "Tested with" of README.md is not what .ci/results says; run node .ci/tested-with.mjs'
    )
    process.exitCode = 1
  }
} else {
  console.error('usage: node .ci/tested-with.mjs [run | --check]')
  process.exitCode = 2
}
