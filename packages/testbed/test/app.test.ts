import { createServer } from 'node:http'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { startApp, startNginx } from '../src/index.js'
import { onFreePort, PortTakenError } from '../src/ports.js'
import { isAlive } from './fixtures/alive.js'

const script = new URL('./fixtures/app.ts', import.meta.url)

test('instances listen, answer calls, die, come back on their port, and multiply', async (t) => {
  const fleet = await startApp({ script, instances: 2, env: (index) => ({ NAME: `app-${index}` }) })
  t.teardown(() => fleet.stop())
  const [first, second] = fleet.instances as [(typeof fleet.instances)[0], (typeof fleet.instances)[0]]
  t.not(first.port, second.port)
  const name = async (url: string): Promise<unknown> =>
    ((await (await fetch(url)).json()) as { name: string }).name
  t.equal(await name(first.url), 'app-0')
  t.equal(await name(second.url), 'app-1')

  t.strictSame(await first.call('hello'), { heard: 'hello' })
  await t.rejects(first.call('refuse'), { code: 'FLOTILLA_TESTBED_ERR_STATE', message: 'refused on purpose' })
  await t.rejects(first.call('silence', 100), { code: 'FLOTILLA_TESTBED_ERR_TIMEOUT' })
  const pending = first.call('silence')
  const { port } = first
  await Promise.all([t.rejects(pending, /ended before it answered/), first.kill()])
  await t.rejects(fetch(first.url))
  await first.restart({ NAME: 'reborn' })
  t.equal(first.port, port)
  t.equal(await name(first.url), 'reborn')

  const third = await fleet.add()
  t.equal(await name(third.url), 'app-2')
  await fleet.roll()
  t.equal(await name(third.url), 'app-2')

  second.signal('SIGTERM')
  t.strictSame(await second.exited, { code: 0, signal: null })
})

test('readyPath waits for an answer instead of a message', async (t) => {
  const fleet = await startApp({ script, readyPath: '/health/ready' })
  await fleet.stop()
  t.notOk(fleet.instances[0]?.running)
})

test('an app that does not start is a coded error with what it wrote', async (t) => {
  await t.rejects(startApp({ script, args: ['--fail'] }), {
    code: 'FLOTILLA_TESTBED_ERR_NOT_READY',
    message: /this app does not start/
  })
})

test('a start that loses its port gets another one; a fixed port that is busy is a coded error', async (t) => {
  const tried: number[] = []
  const port = await onFreePort('it', async (candidate) => {
    tried.push(candidate)
    if (tried.length < 3) throw new PortTakenError()
    return candidate
  })
  t.equal(new Set(tried).size, 3)
  t.equal(port, tried[2])
  await t.rejects(
    onFreePort('it', () => Promise.reject(new PortTakenError())),
    { code: 'FLOTILLA_TESTBED_ERR_NO_PORT' }
  )

  const busy = createServer().listen(0, '127.0.0.1')
  await once(busy, 'listening')
  t.teardown(() => busy.close())
  const { port: taken } = busy.address() as { port: number }
  await t.rejects(startNginx({ servers: [{ host: '127.0.0.1', port: 9 }], port: taken }), {
    code: 'FLOTILLA_TESTBED_ERR_STATE',
    message: new RegExp(`port ${taken} is in use`)
  })
})

test('an app that was ready and ended between two looks has started; one that only ended has not', async (t) => {
  const script = new URL('./fixtures/ready-and-gone.ts', import.meta.url)
  const folder = t.testdir()
  for (const [name, sendsReady] of [
    ['ready', true],
    ['silent', false]
  ] as const) {
    const file = join(folder, name)
    // Called just before the process is made. After the first look nothing is seen until the process has gone, so
    // that the second look finds an app that has ended.
    const env = (): Record<string, string> => {
      setImmediate(blockUntilGone, file)
      return { PID_FILE: file, ...(sendsReady && { SENDS_READY: '1' }) }
    }
    const started = startApp({ script, env })
    if (sendsReady) {
      const fleet = await started
      t.teardown(() => fleet.stop())
      t.strictSame(await fleet.instances[0]!.exited, { code: 0, signal: null })
    } else {
      await t.rejects(started, { code: 'FLOTILLA_TESTBED_ERR_NOT_READY' })
    }
  }
})

/** Holds the event loop until the process whose number is in the file has ended. */
function blockUntilGone(file: string): void {
  const deadline = performance.now() + 20_000
  const lock = new Int32Array(new SharedArrayBuffer(4))
  while (performance.now() < deadline) {
    const pid = Number(readFileSync(file, { encoding: 'utf8', flag: 'a+' }))
    if (pid > 0 && !isAlive(pid)) return
    Atomics.wait(lock, 0, 0, 5)
  }
  throw new Error('the app did not end')
}
