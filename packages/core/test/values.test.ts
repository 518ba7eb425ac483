import { channel } from 'node:diagnostics_channel'
import { test } from 'tap'
import Fastify from 'fastify'
import {
  createChannel,
  formatDuration,
  isPersonal,
  joinHealth,
  markPersonal,
  parseDuration,
  parseSize,
  type HealthRegistry
} from '../src/index.js'

test('durations', async (t) => {
  t.equal(parseDuration(1500), 1500)
  t.equal(parseDuration('15m'), 900_000)
  t.equal(parseDuration(' 1 hour '), 3_600_000)
  t.equal(parseDuration(0), 0)
  for (const bad of [
    '',
    '30',
    'soon',
    '-1s',
    -1,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    null,
    undefined,
    {},
    true
  ]) {
    t.equal(parseDuration(bad), undefined, JSON.stringify(bad))
  }
  t.equal(formatDuration(90_000), '2m')
})

test('sizes', async (t) => {
  t.equal(parseSize(10), 10)
  t.equal(parseSize('64kb'), 65_536)
  t.equal(parseSize('1.5 MB'), 1_572_864)
  t.equal(parseSize('2gb'), 2 ** 31)
  t.equal(parseSize('7b'), 7)
  for (const bad of [
    '',
    '64',
    'kb',
    '-1kb',
    '1tb',
    1.5,
    -1,
    Number.NaN,
    null,
    undefined,
    '9e99gb',
    '99999999999gb'
  ]) {
    t.equal(parseSize(bad), undefined, JSON.stringify(bad))
  }
})

test('a channel publishes only while it has subscribers', async (t) => {
  const ours = createChannel<{ n: number }>('core', 'test')
  t.equal(ours.name, 'flotilla:core:test')
  t.equal(ours.active, false)
  ours.publish({ n: 1 })
  const seen: unknown[] = []
  const listener = (message: unknown) => seen.push(message)
  channel('flotilla:core:test').subscribe(listener)
  t.equal(ours.active, true)
  ours.publish({ n: 2 })
  channel('flotilla:core:test').unsubscribe(listener)
  ours.publish({ n: 3 })
  t.same(seen, [{ n: 2 }])
})

test('a request is personal once marked', async (t) => {
  const request = {}
  t.equal(isPersonal(request), false)
  markPersonal(request)
  t.equal(isPersonal(request), true)
  t.equal(isPersonal({}), false)
})

test('siblings find fastify.health whichever order they were registered in, and do without it', async (t) => {
  const registry = { state: 'ready', addCheck() {}, onDrain() {} } satisfies HealthRegistry
  const joined: HealthRegistry[] = []
  const before = Fastify()
  joinHealth(before, (health) => joined.push(health))
  before.decorate('health', registry)
  await before.ready()
  t.same(joined, [registry])

  const alone = Fastify()
  joinHealth(alone, () => t.fail('there is no health here'))
  await alone.ready()

  const foreign = Fastify()
  foreign.decorate('health', 'something else')
  joinHealth(foreign, () => t.fail('that is not a registry'))
  await foreign.ready()
  await Promise.all([before.close(), alone.close(), foreign.close()])
})
