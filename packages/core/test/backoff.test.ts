import { test } from 'tap'
import { Backoff } from '../src/index.js'

const pauses = (backoff: Backoff, count: number): number[] =>
  Array.from({ length: count }, () => backoff.next())

test('bounds double up to the longest; the jitter stays within them', async (t) => {
  const of = (random: number, jitter: 'full' | 'equal') =>
    pauses(new Backoff({ firstMs: 100, maxMs: 500, jitter, random: () => random }), 5)
  t.same(of(0, 'full'), [0, 0, 0, 0, 0])
  t.same(of(0.5, 'full'), [50, 100, 200, 250, 250])
  t.same(of(0, 'equal'), [50, 100, 200, 250, 250])
  t.same(of(1, 'equal'), [100, 200, 400, 500, 500])
})

test('the factor is the caller’s, and the bound never overflows', async (t) => {
  const steady = new Backoff({ firstMs: 100, maxMs: 1_000, factor: 1, random: () => 1 })
  t.same(pauses(steady, 3), [100, 100, 100])
  const long = new Backoff({ firstMs: 1, maxMs: 1_000, random: () => 1 })
  pauses(long, 5_000)
  t.equal(long.next(), 1_000)
  const short = new Backoff({ firstMs: 500, maxMs: 100, random: () => 1 })
  t.equal(short.next(), 100)
})

test('instances that begin together do not come back together', async (t) => {
  const [one, other] = [new Backoff({ firstMs: 100, maxMs: 500 }), new Backoff({ firstMs: 100, maxMs: 500 })]
  t.not(pauses(one, 5).join(), pauses(other, 5).join())
})

test('a reset begins anew', async (t) => {
  const backoff = new Backoff({ firstMs: 100, maxMs: 500, random: () => 1 })
  t.same(pauses(backoff, 3), [100, 200, 400])
  t.equal(backoff.attempts, 3)
  backoff.reset()
  t.equal(backoff.attempts, 0)
  t.equal(backoff.next(), 100)
})

test('the wait ends by itself, or with the signal and its reason', async (t) => {
  const alive = setInterval(() => {}, 1_000)
  t.teardown(() => clearInterval(alive))
  const backoff = new Backoff({ firstMs: 1, maxMs: 600_000, factor: 600_000, random: () => 1 })
  await backoff.wait()
  const controller = new AbortController()
  const waiting = backoff.wait(controller.signal)
  controller.abort(new Error('closing'))
  await t.rejects(waiting, { message: 'closing' })
  await t.rejects(backoff.wait(controller.signal), { message: 'closing' })
  t.equal(backoff.attempts, 2, 'a wait that never began is no attempt')
})
