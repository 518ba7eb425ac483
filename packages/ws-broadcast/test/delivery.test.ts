import { test } from 'tap'
import { runDelivery } from './delivery/run.js'
import { Log, Tally } from './delivery/tally.js'

test('the tally sees messages that come twice, late or from nowhere, repeated publishes among them', (t) => {
  const at = (offset: number, epoch = 'a'): { epoch: string; offset: string } => ({
    epoch,
    offset: `${offset}-0`
  })
  const log = new Log()
  // 2 was stored at 3 and lost by the failover that began epoch b, so that its publish was repeated.
  for (const [message, position] of [at(1), at(2), at(9, 'b'), at(8, 'b')].entries())
    log.acknowledge(message, position)
  const tallyOf = (...deliveries: [message: number, position: ReturnType<typeof at>][]): object => {
    const tally = new Tally(4, log)
    for (const [message, position] of deliveries) tally.add(message, position)
    return { ...tally.verdict(), complete: tally.complete }
  }
  const good = { outOfOrder: 0, restored: 0, complete: true }
  t.same(tallyOf([0, at(1)], [1, at(2)], [3, at(8, 'b')], [2, at(9, 'b')]), good)
  t.same(tallyOf([0, at(1)], [1, at(2)], [2, at(3)], [3, at(8, 'b')]), { ...good, restored: 1 })
  t.same(tallyOf([1, at(2)], [0, at(1)], [3, at(8, 'b')], [2, at(9, 'b')]), { ...good, outOfOrder: 1 })
  t.same(tallyOf([0, at(1)], [1, at(2)], [2, at(9, 'b')], [3, at(8, 'b')]), { ...good, outOfOrder: 1 })
  t.same(tallyOf([0, at(1)], [1, at(5)], [3, at(8, 'b')], [2, at(9, 'b')]), { ...good, outOfOrder: 1 })
  t.same(tallyOf([0, at(1)], [0, at(1)]), { outOfOrder: 1, restored: 0, complete: false })
  t.end()
})

test('every client gets every durable message once and in order while everything fails in turn', async (t) => {
  const result = await runDelivery({ clients: 60, messages: 600, window: 5, cutEvery: 500, faultEvery: 800 })
  t.equal(result.acknowledged, 600)
  t.same(
    { missing: result.missing, duplicates: result.duplicates, outOfOrder: result.outOfOrder },
    { missing: 0, duplicates: 0, outOfOrder: 0 }
  )
  t.same(result.gaps, {}, 'a durable channel has no gap')
  t.ok(result.faults.length >= 4, result.faults.join('; '))
  t.comment(JSON.stringify(result))
})
