import { onEachTopology } from '@flotilla/testbed'
import { Command, Redis } from 'ioredis'
import { test, type Test } from 'tap'
import { startApp } from './fixtures/app.js'
import { block } from './fixtures/block.js'

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

void test('an event loop that is blocked ends no command and no connection', async (suite) => {
  await onEachTopology(suite, async (t: Test, topology) => {
    const app = await startApp(t, { url: topology.url, commandTimeout: 300 })
    await app.ready()
    const events: string[] = []
    for (const event of ['close', 'error', 'node error']) app.redis.on(event, () => events.push(event))
    await app.redis.set('k', 'v')
    for (let round = 0; round < 3; round++) {
      const replies = Promise.all([app.redis.get('k'), app.redis.get('k')])
      // Automatic pipelines are sent at the end of the turn.
      await turn()
      block(1_000)
      t.same(await replies, ['v', 'v'])
      const later = app.redis.get('k')
      block(1_000)
      t.equal(await later, 'v', 'not sent before the loop was blocked')
    }
    t.same(events, [])
  })
})

void test('the members of ioredis that we rely on are where they were', async (t) => {
  const command = new Command('get', ['k'])
  command.setTimeout(60_000)
  const { _commandTimeoutTimer: timer } = command as unknown as { _commandTimeoutTimer?: NodeJS.Timeout }
  t.ok(timer, '_commandTimeoutTimer holds the timer of a command')
  command.setTimeout(60_000)
  t.equal(
    (command as unknown as { _commandTimeoutTimer?: unknown })._commandTimeoutTimer,
    timer,
    'and is armed once'
  )
  command.resolve('v')
  t.notOk((command as unknown as { _commandTimeoutTimer?: unknown })._commandTimeoutTimer, 'and is cleared')
  const redis = new Redis({ lazyConnect: true }) as unknown as Record<string, unknown>
  t.type(redis['setSocketTimeout'], 'function', 'setSocketTimeout')
  t.equal((redis['commandQueue'] as { length: number }).length, 0, 'commandQueue')
})
