import { spawn } from 'node:child_process'
import {
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import t, { test, type Test } from 'tap'
import { cacheFolder } from '../src/debian-packages.js'
import { choiceOf } from '../src/environment.js'

// Fetches and copies packages of 100 MB.
t.setTimeout(900_000)

const debian = existsSync('/usr/bin/apt-get') && process.platform === 'linux'
const fixture = new URL('./fixtures/start-and-report.ts', import.meta.url).pathname

interface Report {
  path: string
  version: string
  libraries: string[]
}

interface Ended {
  code: number | null
  report: Report
  stderr: string
}

function run(env: NodeJS.ProcessEnv): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), fixture], {
      env: { ...process.env, FLOTILLA_REDIS: '', ...env }
    })
    let stdout = ''
    let stderr = ''
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
    child.once('error', reject)
    child.once('close', (code) => {
      const report = (stdout ? JSON.parse(stdout) : {}) as Report
      resolve({ code, report, stderr })
    })
  })
}

function folder(t: Test): string {
  const path = mkdtempSync(join(tmpdir(), 'generations-'))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** The folder of a package in the cache, which holds this file of it. */
const rootOf = (program: string): string => {
  const cache = cacheFolder()
  return join(cache, String(program.slice(cache.length + 1).split('/')[0]))
}

test('an unknown value is refused with the nearest one', async (t) => {
  for (const [name, value, nearest] of [
    ['FLOTILLA_SERVERS', 'newset', 'newest'],
    ['FLOTILLA_SERVERS', 'Oldest', 'oldest'],
    ['FLOTILLA_REDIS', 'valky', 'valkey'],
    ['FLOTILLA_PROGRAMS', 'paths', 'path']
  ] as const) {
    t.throws(() => choiceOf(name, { [name]: value }), {
      code: 'FLOTILLA_TESTBED_ERR_ENVIRONMENT',
      message: new RegExp(`^${name} must be one of .*, got '${value}'; did you mean '${nearest}'\\?$`)
    })
  }
  t.equal(choiceOf('FLOTILLA_SERVERS', {}), 'oldest')
  t.equal(choiceOf('FLOTILLA_SERVERS', { FLOTILLA_SERVERS: '' }), 'oldest')

  const { code, stderr } = await run({ FLOTILLA_SERVERS: 'newset' })
  t.equal(code, 1)
  t.match(stderr, /FLOTILLA_TESTBED_ERR_ENVIRONMENT/)
})

for (const [server, version, env] of [
  ['redis', /^Redis server v=([89]|\d\d)\./, {}],
  ['redis', /^Valkey server v=(9|\d\d)\./, { FLOTILLA_REDIS: 'valkey' }],
  ['postgres', /^postgres \(PostgreSQL\) (1[89]|[2-9]\d)/, {}]
] as const) {
  const what = `${server} ${JSON.stringify(env)}`
  test(
    `newest, ${what}: runs on its own libraries, also from a copied folder`,
    { skip: !debian },
    async (t) => {
      const settings = { SERVER: server, FLOTILLA_SERVERS: 'newest', ...env }
      const { code, report, stderr } = await run(settings)
      t.equal(code, 0, stderr)
      t.match(report.version, version)
      const root = rootOf(report.path)
      // PostgreSQL may have been copied to where its user can enter.
      const places = [root, join(tmpdir(), '')]
      t.ok(report.libraries.length > 3)
      t.strictSame(
        report.libraries.filter((library) => !places.some((place) => library.startsWith(place))),
        [],
        'no library of the system'
      )

      const cache = join(folder(t), 'cache')
      mkdirSync(cache, { recursive: true })
      for (const name of readdirSync(cacheFolder()).filter((one) => one.startsWith('patchelf-'))) {
        cpSync(join(cacheFolder(), name), join(cache, name), { recursive: true, verbatimSymlinks: true })
      }
      cpSync(root, join(cache, basename(root)), { recursive: true, verbatimSymlinks: true })
      const copied = await run({ ...settings, FLOTILLA_CACHE: cache })
      t.equal(copied.code, 0, copied.stderr)
      t.match(copied.stderr, /was copied here; binding its programs/)
      t.strictSame(
        copied.report.libraries.filter((library) => library.startsWith(cacheFolder())),
        [],
        'no library of the folder that it was copied from'
      )
    }
  )
}

test('Valkey serves if there is no Redis', { skip: !debian }, async (t) => {
  const { report } = await run({ FLOTILLA_SERVERS: 'newest', FLOTILLA_REDIS: 'valkey' })
  const bin = join(folder(t), 'bin')
  mkdirSync(bin)
  symlinkSync(report.path, join(bin, 'valkey-server'))
  const env = { PATH: `${bin}:/bin`, FLOTILLA_PROGRAMS: 'path', FLOTILLA_SERVERS: 'oldest' }
  const found = await run(env)
  t.equal(found.code, 0, found.stderr)
  t.match(found.report.version, /^Valkey/)
  const refused = await run({ ...env, FLOTILLA_REDIS: 'redis' })
  t.equal(refused.code, 1)
  t.match(refused.stderr, /'redis-server' is not on this machine/)
})

const notRoot = process.getuid?.() !== 0 && 'needs root, to give files to another user'

test('a data folder that lost its owner in a copy is made again', { skip: notRoot }, async (t) => {
  const cache = join(folder(t), 'cache')
  const env = { SERVER: 'postgres', FLOTILLA_SERVERS: 'oldest', FLOTILLA_CACHE: cache }
  const { code, stderr } = await run(env)
  t.equal(code, 0, stderr)
  const name = readdirSync(cache).find((one) => one.startsWith('postgresql-data-'))
  const data = join(cache, String(name))
  for (const lost of [data, join(data, 'global', 'pg_control')]) {
    chownSync(lost, 0, 0)
    const again = await run(env)
    t.equal(again.code, 0, again.stderr)
  }
})

test('an unpacked program that lost its links in a copy is fetched again', { skip: !debian }, async (t) => {
  const { report } = await run({ FLOTILLA_SERVERS: 'newest', FLOTILLA_REDIS: 'valkey' })
  const root = rootOf(report.path)
  const cache = join(folder(t), 'cache')
  mkdirSync(cache, { recursive: true })
  for (const name of readdirSync(cacheFolder()).filter((one) => /^(patchelf-|apt)/.test(one))) {
    cpSync(join(cacheFolder(), name), join(cache, name), { recursive: true, verbatimSymlinks: true })
  }
  cpSync(root, join(cache, basename(root)), { recursive: true, verbatimSymlinks: true })
  rmSync(join(cache, basename(root), 'usr', 'bin'), { recursive: true })
  t.equal(dirname(report.path), join(root, 'usr', 'bin'))
  const again = await run({ FLOTILLA_SERVERS: 'newest', FLOTILLA_REDIS: 'valkey', FLOTILLA_CACHE: cache })
  t.equal(again.code, 0, again.stderr)
  t.match(again.stderr, /does not work, .* fetching it again/)
})
