import { readFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { test, type Test } from 'tap'
import { deploymentFile } from '../src/deployment-files.js'
import { findProgram, startPgBouncer, type PgBouncer } from '../src/index.js'

/* Two packets that any client can send before it has authenticated. One ends an older PgBouncer, the other keeps it
   at 100 % CPU. docker/pgbouncer therefore refuses to build with a version below this one. */

const SAFE = [1, 26, 1]

const { version } = await findProgram('pgbouncer')
const safe = isAtLeast(version, SAFE)
const skip = safe ? false : `${version} has both faults`

/** The startup message of protocol 3.0 (PostgreSQL documentation, "Message Formats"). */
function startup(parameters: Record<string, string>): Buffer {
  const pairs = Object.entries(parameters).flat()
  const body = Buffer.concat([Buffer.from([0, 3, 0, 0]), Buffer.from(`${pairs.join('\0')}\0\0`)])
  return Buffer.concat([int32(body.length + 4), body])
}

/** A SASLInitialResponse that names the mechanism and, by the length -1, brings no message of it. */
function scramWithoutNonce(): Buffer {
  const body = Buffer.concat([Buffer.from('SCRAM-SHA-256\0'), int32(-1)])
  return Buffer.concat([Buffer.from('p'), int32(body.length + 4), body])
}

function int32(value: number): Buffer {
  const buffer = Buffer.alloc(4)
  buffer.writeInt32BE(value)
  return buffer
}

/** Sends each part after the answer to the one before; resolves with all answers when PgBouncer closes. */
function exchange({ host, port }: PgBouncer, parts: readonly Buffer[]): Promise<string> {
  const left = [...parts]
  return new Promise((resolve, reject) => {
    let answers = ''
    const socket = connect({ host, port }, () => socket.write(left.shift()!))
    socket.on('data', (data) => {
      answers += data.toString('latin1')
      const next = left.shift()
      if (next !== undefined) socket.write(next)
    })
    socket.on('error', reject)
    socket.on('close', () => resolve(answers))
  })
}

test('a startup packet with a nameless option is refused, and PgBouncer goes on', { skip }, async (t) => {
  const bouncer = await start(t)
  const answer = await exchange(bouncer, [startup({ user: 'app', database: 'app', options: '-c =x' })])
  t.match(answer, 'unsupported startup parameter', 'the client gets an error')
  await isWell(t, bouncer)
})

test('a SCRAM message without a nonce is refused, and PgBouncer goes on', { skip }, async (t) => {
  const bouncer = await start(t)
  const hello = startup({ user: 'unknown', database: 'app' })
  t.match(await exchange(bouncer, [hello, scramWithoutNonce()]), 'FATAL', 'the client gets an error')
  await isWell(t, bouncer)
})

test('the list of ignored parameters has a space after each comma, for versions with the endless loop', async (t) => {
  const text = await readFile(await deploymentFile('pgbouncer/pgbouncer.ini'), 'utf8')
  const [, list = ''] = /^ignore_startup_parameters = (.*)$/m.exec(text) ?? []
  t.ok(list.includes(', '), list)
  t.notMatch(list, /,(?! )/)
})

async function start(t: Test): Promise<PgBouncer> {
  const target = { host: '127.0.0.1', port: 9, database: 'app' } as const
  const bouncer = await startPgBouncer({ target, settings: { client_login_timeout: 2 } })
  t.teardown(() => bouncer.stop())
  return bouncer
}

/** The console answers another client, so the one process of PgBouncer neither ended nor spins. */
async function isWell(t: Test, bouncer: PgBouncer): Promise<void> {
  const answer = await exchange(bouncer, [startup({ user: 'nobody', database: 'app', nonsense: 'x' })])
  t.match(answer, 'unsupported startup parameter: nonsense', 'the next client gets its answer')
}

function isAtLeast(text: string, wanted: readonly number[]): boolean {
  const found = /(\d+)\.(\d+)\.(\d+)/.exec(text)?.slice(1).map(Number) ?? []
  for (const [index, part] of wanted.entries()) {
    if (found[index] !== part) return (found[index] ?? 0) > part
  }
  return true
}
