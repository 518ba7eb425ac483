import { test } from 'tap'
import { RedisClock } from '../src/index.js'
import { block } from './support/block.js'

/** A server whose clock is off by this much, asked at once. */
const ask = (clock: RedisClock, offMs: number): void => {
  const sentAt = performance.now()
  clock.observe(Math.floor(Date.now() + offMs), sentAt)
}
const off = (clock: RedisClock): number => clock.now() - Date.now()
const near = (a: number, b: number): boolean => Math.abs(a - b) < 500

test('until the first reply it is that of this machine, and its error is unknown', async (t) => {
  const clock = new RedisClock()
  t.ok(near(off(clock), 0))
  t.equal(clock.uncertaintyMs, Number.POSITIVE_INFINITY)
  t.equal(clock.ageMs, Number.POSITIVE_INFINITY)
})

test('follows the clock of Redis, whatever that of this machine says', async (t) => {
  const clock = new RedisClock()
  ask(clock, 3_600_000)
  t.ok(near(off(clock), 3_600_000))
  t.ok(clock.uncertaintyMs < 500)
  t.ok(clock.ageMs < 10_000)
  const local = performance.now()
  t.ok(Math.abs(clock.toLocal(clock.toRedis(local)) - local) < 0.01)
})

test('a slow reply never makes it worse: it widens nothing', async (t) => {
  const clock = new RedisClock()
  ask(clock, 60_000)
  const before = { off: off(clock), uncertainty: clock.uncertaintyMs }
  const sentAt = performance.now()
  const reply = Math.floor(Date.now() + 60_000)
  // The reply was made at once and waited in the socket while the loop was blocked.
  block(300)
  clock.observe(reply, sentAt)
  t.ok(clock.uncertaintyMs < before.uncertainty + 100, `${clock.uncertaintyMs} ms`)
  t.ok(Math.abs(off(clock) - before.off) < 100, `${off(clock)} ms`)
})

test('alone, a slow reply is known to be inexact', async (t) => {
  const clock = new RedisClock()
  const sentAt = performance.now()
  const reply = Math.floor(Date.now() - 60_000)
  block(300)
  clock.observe(reply, sentAt)
  t.ok(clock.uncertaintyMs >= 150)
  t.ok(Math.abs(off(clock) + 60_000) <= clock.uncertaintyMs + 50, 'and right within what it says')
})

test('a server whose clock differs takes over at once, as after a failover', async (t) => {
  const clock = new RedisClock()
  ask(clock, 10_000)
  ask(clock, -10_000)
  t.ok(near(off(clock), -10_000))
  ask(clock, 10_000)
  t.ok(near(off(clock), 10_000))
})

test('what is no time is not believed', async (t) => {
  const clock = new RedisClock()
  ask(clock, 10_000)
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
    clock.observe(bad, performance.now())
    clock.observe(Date.now(), bad)
  }
  t.ok(near(off(clock), 10_000))
})
