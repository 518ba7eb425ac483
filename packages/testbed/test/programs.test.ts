import { spawn } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { test, type Test } from 'tap'
import { leftovers } from './fixtures/alive.js'

// Fetches packages, which takes its time on a busy machine.
t.setTimeout(900_000)

const debian = existsSync('/usr/bin/apt-get') && process.platform === 'linux'
const fixture = new URL('./fixtures/start-redis.ts', import.meta.url).pathname

interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

function run(env: NodeJS.ProcessEnv, identity: { uid?: number; gid?: number } = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), fixture], {
      env: { ...process.env, ...env },
      ...identity
    })
    let stdout = ''
    let stderr = ''
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
    child.once('error', reject)
    child.once('close', (code) => resolve({ code, stdout, stderr }))
  })
}

function folder(t: Test): string {
  const path = mkdtempSync(join(tmpdir(), 'programs-'))
  chmodSync(path, 0o755)
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** The folder above `path` that only its owner may enter, such as root's home. */
function closedToOthers(path: string): string | undefined {
  for (let at = dirname(path); at !== dirname(at); at = dirname(at)) {
    if ((statSync(at).mode & 0o001) === 0) return at
  }
  return undefined
}

function noOrdinaryUser(): string | false {
  if (!debian || process.getuid?.() !== 0) return 'needs root on Debian, to become somebody else'
  const closed = closedToOthers(process.execPath) ?? closedToOthers(fixture)
  return closed === undefined
    ? false
    : `an ordinary user may not enter ${closed}, where this Node.js or checkout is`
}

test('a missing program that cannot be fetched is one coded error, and the exit code is not 0', async (t) => {
  const temporary = folder(t)
  const empty = join(temporary, 'bin')
  mkdirSync(empty)
  const { code, stderr, stdout } = await run({
    FLOTILLA_PROGRAMS: 'fetch',
    FLOTILLA_CACHE: join(temporary, 'cache'),
    // No apt-get and no dpkg-deb to be found.
    PATH: empty,
    TMPDIR: temporary
  })
  t.equal(code, 1)
  t.equal(stdout, '')
  t.match(stderr, /FLOTILLA_TESTBED_ERR_PROGRAM_MISSING/)
  t.match(stderr, /'redis-server' or 'valkey-server' is not on this machine/)
  t.match(stderr, /Install it with/)
  t.match(stderr, /docker compose -f docker\/compose\.yaml up/)
  t.strictSame(leftovers(temporary), [])
})

test('packages that apt cannot reach are one coded error with the cause', { skip: !debian }, async (t) => {
  const temporary = folder(t)
  const { code, stderr } = await run({
    FLOTILLA_PROGRAMS: 'fetch',
    FLOTILLA_CACHE: join(temporary, 'cache'),
    // A port on which nobody listens.
    http_proxy: 'http://127.0.0.1:9',
    https_proxy: 'http://127.0.0.1:9',
    TMPDIR: temporary
  })
  t.equal(code, 1)
  t.match(stderr, /FLOTILLA_TESTBED_ERR_PROGRAM_MISSING/)
  t.match(stderr, /fetching the package redis-server failed/)
  t.strictSame(leftovers(temporary), [])
  t.strictSame(
    readdirSync(join(temporary, 'cache')).filter((name) => name.startsWith('redis-server')),
    [],
    'nothing half fetched'
  )
})

test('two processes want the same program: one fetches it, the other waits', { skip: !debian }, async (t) => {
  const temporary = folder(t)
  const env = { FLOTILLA_PROGRAMS: 'fetch', FLOTILLA_CACHE: join(temporary, 'cache') }
  const both = await Promise.all([run(env), run(env)])
  for (const { code, stdout, stderr } of both) {
    t.equal(code, 0, stderr)
    t.match(stdout, join(temporary, 'cache'))
  }
  t.equal(both.filter(({ stderr }) => stderr.includes('fetching')).length, 1)

  // A lock whose holder is gone stops nobody.
  const ended = spawn('true')
  await new Promise((resolve) => ended.once('close', resolve))
  rmSync(join(temporary, 'cache', `redis-server-${process.arch}`), { recursive: true })
  writeFileSync(join(temporary, 'cache', 'fetching.lock'), String(ended.pid))
  t.equal((await run(env)).code, 0)
})

test('an ordinary user fetches and runs programs as root does', { skip: noOrdinaryUser() }, async (t) => {
  const temporary = folder(t)
  const identity = { uid: 65_534, gid: 65_534 }
  chownSync(temporary, identity.uid, identity.gid)
  const env = {
    FLOTILLA_PROGRAMS: 'fetch',
    FLOTILLA_CACHE: join(temporary, 'cache'),
    TMPDIR: temporary,
    HOME: temporary
  }
  const { code, stdout, stderr } = await run(env, identity)
  t.equal(code, 0, stderr)
  t.match(stdout, join(temporary, 'cache'))
  t.strictSame(leftovers(temporary), [])
})
