import { until } from '@flotilla/testbed'
import { t as tap, test } from 'tap'
import { Listener } from '../../src/check/listener.js'
import { Load } from '../../src/check/load.js'
import { Visitor } from '../../src/check/visitor.js'
import { startFleet, type Fleet } from '../fleet.js'

/* What sessions, sockets and the drain promise only together, on three instances behind nginx. */

let fleet: Fleet

tap.before(async () => {
  fleet = await startFleet()
})
tap.teardown(() => fleet.stop())

test("revoking a user's sessions closes their sockets on every instance, and no one else's", async (t) => {
  const [kept, revoked, stranger] = [new Visitor(), new Visitor(), new Visitor()]
  const { urls } = fleet.apps
  await kept.login(urls[0]!, 'Ada')
  await revoked.login(urls[1]!, 'Ada')
  await stranger.login(urls[2]!, 'Bob')
  const open = (visitor: Visitor): Promise<Listener[]> =>
    Promise.all(urls.map((url) => Listener.open(url, visitor.cookie)))
  const [ofKept, ofRevoked, ofStranger] = await Promise.all([open(kept), open(revoked), open(stranger)])

  await kept.must(urls[2]!, '/api/sessions', { method: 'DELETE', status: 204 })
  await until(() => ofRevoked.every(({ refused }) => refused), { message: 'the revoked sockets are closed' })
  t.match(await revoked.must(urls[0]!, '/api/me'), { name: null }, 'the session is gone as well')

  const { id } = await kept.must<{ id: string }>(urls[1]!, '/api/posts', {
    method: 'POST',
    body: { body: 'still here' },
    status: 201
  })
  for (const listener of [...ofKept, ...ofStranger]) {
    await listener.waitFor([id])
    t.equal(listener.resumed, 0, 'it was not even interrupted')
  }
  for (const listener of ofRevoked) t.notOk(listener.received.includes(id))
  for (const listener of [...ofKept, ...ofRevoked, ...ofStranger]) listener.close()
})

test('draining an instance moves its sockets without a lost message', async (t) => {
  const listeners = await Promise.all(Array.from({ length: 15 }, () => Listener.open(fleet.url)))
  const load = await Load.start(fleet.url, { visitors: 3 })
  await until(() => load.written.length > 5, { message: 'messages flow' })
  await fleet.apps.instances[0]!.stop()
  const moved = listeners.reduce((sum, { resumed }) => sum + resumed, 0)
  await until(() => load.answered > 50, { message: 'the others went on' })
  await load.stop()
  t.ok(moved > 0, `${moved} sockets were moved before the instance had ended`)
  t.same(load.failures, [], 'no request failed')
  await Promise.all(listeners.map((listener) => listener.waitFor(load.written)))
  for (const listener of listeners) {
    t.same([listener.doubled, listener.gaps], [[], []])
    listener.close()
  }
})
