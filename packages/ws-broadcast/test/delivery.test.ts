import { test } from 'tap'
import { runDelivery } from './delivery/run.js'

test('every client gets every durable message once and in order while everything fails in turn', async (t) => {
  const result = await runDelivery({ clients: 60, messages: 600, window: 5, cutEvery: 500, faultEvery: 800 })
  t.equal(result.acknowledged, 600)
  t.same(
    { missing: result.missing, duplicates: result.duplicates, outOfOrder: result.outOfOrder },
    { missing: 0, duplicates: 0, outOfOrder: 0 }
  )
  t.notOk(result.gaps['trimmed'], 'nothing was trimmed')
  t.ok(result.faults.length >= 4, result.faults.join('; '))
  t.comment(JSON.stringify(result))
})
