import { test } from 'tap'
import { TimeoutError, withTimeout } from '../src/index.js'
import { block } from './support/block.js'

// The wait does not keep the process alive; the tests must.
const alive = setInterval(() => {}, 1_000)
const never = new Promise<never>(() => {})

test('work that settles in time has its own outcome', async (t) => {
  t.equal(await withTimeout(Promise.resolve('done'), 60_000), 'done')
  t.equal(await withTimeout(() => 'done', 60_000), 'done')
  t.equal(await withTimeout(async () => 'done', Number.POSITIVE_INFINITY), 'done')
  await t.rejects(withTimeout(Promise.reject(new Error('broken')), 60_000), { message: 'broken' })
  await t.rejects(
    withTimeout(() => {
      throw new Error('broken at once')
    }, 60_000),
    { message: 'broken at once' }
  )
})

test('work that takes too long is left alone with a coded error, or that of the caller', async (t) => {
  await t.rejects(withTimeout(never, 20), {
    code: 'FLOTILLA_CORE_ERR_TIMEOUT',
    message: /not done within 20 ms/
  })
  await t.rejects(withTimeout(never, 20), TimeoutError)
  await t.rejects(withTimeout(never, 20, { timeoutError: () => new Error('too late') }), {
    message: 'too late'
  })
})

test('a function learns from its signal that the wait is over; what it throws then is dropped', async (t) => {
  let signal: AbortSignal | undefined
  const work = (own: AbortSignal): Promise<never> => {
    signal = own
    return new Promise((_, reject) => {
      own.addEventListener('abort', () => reject(new Error('gave up')))
    })
  }
  await t.rejects(withTimeout(work, 20), { code: 'FLOTILLA_CORE_ERR_TIMEOUT' })
  t.equal(signal?.aborted, true)
  t.match(signal?.reason, { code: 'FLOTILLA_CORE_ERR_TIMEOUT' })

  await withTimeout((own) => {
    signal = own
  }, 60_000)
  t.equal(signal?.aborted, false, 'not after the work is done')
})

test('the signal of the caller ends the wait with its reason, and the work with it', async (t) => {
  const controller = new AbortController()
  let inner: AbortSignal | undefined
  const waiting = withTimeout(
    (own) => {
      inner = own
      return never
    },
    60_000,
    { signal: controller.signal }
  )
  controller.abort(new Error('the client went away'))
  await t.rejects(waiting, { message: 'the client went away' })
  t.match(inner?.reason, { message: 'the client went away' })

  let begun = false
  const late = withTimeout(() => void (begun = true), 60_000, { signal: controller.signal })
  await t.rejects(late, { message: 'the client went away' })
  t.equal(begun, false, 'nothing begins for a caller that is gone')
})

test('no listener stays on the signal of the caller', async (t) => {
  const { signal } = new AbortController()
  let listeners = 0
  const { addEventListener, removeEventListener } = signal
  signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
    listeners++
    addEventListener.apply(signal, args)
  }
  signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
    listeners--
    removeEventListener.apply(signal, args)
  }
  await withTimeout(Promise.resolve(), 60_000, { signal })
  await t.rejects(withTimeout(never, 10, { signal }))
  await t.rejects(withTimeout(Promise.reject(new Error('x')), 60_000, { signal }))
  t.equal(listeners, 0)
})

test('work that was done while the event loop was blocked is in time', async (t) => {
  const work = new Promise((resolve) => {
    setTimeout(resolve, 150, 'done')
  })
  const waiting = withTimeout(work, 100)
  block(400)
  t.equal(await waiting, 'done')
})

test('the end', async () => clearInterval(alive))
