import { AsyncLocalStorage } from 'node:async_hooks'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { promisify } from 'node:util'
import { Worker } from 'node:worker_threads'
import { test } from 'tap'
import { Deadline } from '../src/index.js'
import { block, turn } from './support/block.js'

// Deadlines do not keep the process alive; the tests that wait for one must.
const alive = setInterval(() => {}, 1_000)

const expired = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    const deadline: Deadline = new Deadline(ms, resolve)
    if (!deadline.pending) throw new Error('a new deadline is pending')
  })

test('deadlines of one period expire in the order in which they began, each once', async (t) => {
  const seen: string[] = []
  const first = new Deadline(50, () => seen.push('first'))
  const touched = new Deadline(50, () => seen.push('touched'))
  const cancelled = new Deadline(50, () => seen.push('cancelled'))
  const last = new Deadline(50, () => seen.push('last'))
  touched.touch()
  cancelled.cancel()
  t.same([first.pending, touched.pending, cancelled.pending, last.pending], [true, true, false, true])
  // It began after all of these.
  await expired(50)
  t.same(seen, ['first', 'last', 'touched'])
  t.same([first.pending, touched.pending, cancelled.pending, last.pending], [false, false, false, false])
  first.touch()
  cancelled.touch()
  first.cancel()
  await expired(50)
  t.same(seen, ['first', 'last', 'touched'], 'what is over does not begin anew')
})

test('a deadline may begin, touch or cancel others when it expires', async (t) => {
  const seen: string[] = []
  const all: Deadline[] = []
  let other: Deadline | undefined
  await new Promise<void>((resolve) => {
    const second = (): void => {
      seen.push('second')
      resolve()
    }
    all.push(
      new Deadline(20, () => {
        seen.push('first')
        other?.cancel()
        all.push(new Deadline(20, second))
      })
    )
    other = new Deadline(20, () => seen.push('other'))
  })
  t.same(seen, ['first', 'second'])
})

test('an answer that arrived while the event loop was blocked is in time', async (t) => {
  // A thread of its own: it answers while this one is blocked.
  const echo = new Worker(
    `const server = require('node:net').createServer((socket) => socket.pipe(socket)).listen(0, '127.0.0.1', () =>
       require('node:worker_threads').parentPort.postMessage(server.address().port))`,
    { eval: true }
  )
  t.teardown(() => echo.terminate())
  const [port] = (await once(echo, 'message')) as [number]
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  socket.write('warm')
  await once(socket, 'data')

  const seen: string[] = []
  const plain = setTimeout(() => seen.push('timer'), 200)
  t.teardown(() => clearTimeout(plain))
  const deadline = new Deadline(200, () => seen.push('deadline'))
  socket.write('request')
  block(600)
  await once(socket, 'data')
  t.same(seen, ['timer'], 'a plain timer comes before the answer, the deadline does not')
  t.ok(deadline.pending)
  deadline.cancel()
})

test('a loop that is blocked again and again makes no deadline expire, and one that turns does', async (t) => {
  const period = 800
  const deadline = new Deadline(period, () => {})
  for (let blocks = 0; blocks < 5; blocks++) {
    block(period)
    await turn()
    t.ok(deadline.pending, `after ${blocks + 1} blocks of the whole period`)
  }
  deadline.touch()
  for (let blocks = 0; blocks < 5; blocks++) {
    block(period / 2)
    await turn()
    t.ok(deadline.pending, `touched, after ${blocks + 1} blocks of half the period`)
  }
  await new Promise<void>((resolve) => {
    const check = setInterval(() => {
      if (deadline.pending) return
      clearInterval(check)
      resolve()
    }, 5)
  })
  t.notOk(deadline.pending)
})

test('a loop of which every turn is slow still lets a deadline expire', async (t) => {
  const deadline = new Deadline(80, () => {})
  let turns = 0
  while (deadline.pending) {
    block(40)
    await turn()
    turns++
  }
  t.ok(turns >= 8, `each turn counts for at most an eighth: ${turns} turns`)
  t.ok(turns <= 40, `${turns} turns`)
})

test('a sign of life begins the period anew, however often', async (t) => {
  const deadline = new Deadline(200, () => {})
  for (let signs = 0; signs < 10; signs++) {
    await expired(50)
    deadline.touch()
  }
  t.ok(deadline.pending)
  deadline.cancel()
})

test('periods of no length expire at once, an infinite one never', async (t) => {
  const never = new Deadline(Number.POSITIVE_INFINITY, () => t.fail('expired'))
  for (const ms of [0, -5, Number.NaN, 0.3]) await expired(ms)
  never.touch()
  t.ok(never.pending)
  never.cancel()
  t.notOk(never.pending)
})

test('many deadlines share one timer, and begin and end in any order', async (t) => {
  const { setTimeout: real } = globalThis
  let timers = 0
  globalThis.setTimeout = ((...args: Parameters<typeof real>) => {
    timers++
    return real(...args)
  }) as typeof real
  t.teardown(() => {
    globalThis.setTimeout = real
  })
  const all = Array.from({ length: 20_000 }, () => new Deadline(5_000, () => {}))
  for (const [index, deadline] of all.entries()) if (index % 3 === 0) deadline.touch()
  for (const deadline of all.filter((_, index) => index % 2 === 0)) deadline.cancel()
  for (const deadline of all.toReversed()) deadline.cancel()
  t.equal(timers, 1)
})

test('a deadline keeps no request alive', async (t) => {
  const storage = new AsyncLocalStorage<string>()
  const store = await new Promise((resolve) => {
    storage.run('of one request', () => new Deadline(20, () => resolve(storage.getStore())))
  })
  t.equal(store, undefined)
})

test('a deadline does not keep the process alive', async (t) => {
  const module = new URL('../src/index.js', import.meta.url).href.replace('.js', '.ts')
  const script = `import { Deadline } from '${module}'; new Deadline(600_000, () => {}); console.log('begun')`
  const args = ['--import=tsx', '--input-type=module', '--eval', script]
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: import.meta.dirname })
  t.equal(stdout, 'begun\n')
})

test('the end', async () => clearInterval(alive))
