import { test } from 'tap'
import { KeyedQueue } from '../src/index.js'

function gate() {
  let open!: () => void
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { open, opened }
}

test('tasks of one key run one after another, those of others do not wait', async (t) => {
  const queue = new KeyedQueue()
  const seen: string[] = []
  const { open, opened } = gate()
  const first = queue.run('a', async () => {
    seen.push('first begins')
    await opened
    seen.push('first ends')
    return 1
  })
  const second = queue.run('a', () => {
    seen.push('second')
    return 2
  })
  const third = queue.run('a', async () => seen.push('third'))
  t.same(seen, ['first begins'], 'the first one begins at once')
  t.equal(await queue.run('b', () => 'b'), 'b')
  t.ok(queue.has('a'))
  open()
  t.same(await Promise.all([first, second]), [1, 2])
  await third
  t.same(seen, ['first begins', 'first ends', 'second', 'third'])
})

test('a failure is its own task’s only', async (t) => {
  const queue = new KeyedQueue()
  const broken = queue.run('a', () => {
    throw new Error('at once')
  })
  const rejected = queue.run('a', async () => {
    throw new Error('later')
  })
  const fine = queue.run('a', () => 'fine')
  await t.rejects(broken, { message: 'at once' })
  await t.rejects(rejected, { message: 'later' })
  t.equal(await fine, 'fine')
})

test('a task is given nothing of the one before it', async (t) => {
  const queue = new KeyedQueue()
  const first = queue.run('a', async () => 'secret')
  const second = queue.run('a', (...args: unknown[]) => args.length)
  await first
  t.equal(await second, 0)
})

test('keys without tasks are forgotten, also after failures', async (t) => {
  const queue = new KeyedQueue()
  const tasks = Array.from({ length: 1_000 }, (_, n) =>
    queue.run(`key ${n % 100}`, async () => {
      if (n % 7 === 0) throw new Error('broken')
    })
  )
  t.equal(queue.size, 100)
  await Promise.allSettled(tasks)
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(queue.size, 0)
  t.notOk(queue.has('key 1'))
})
