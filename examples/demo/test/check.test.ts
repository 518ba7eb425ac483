import { startRedis } from '@flotilla/testbed'
import { test } from 'tap'
import { runDemo } from './run-demo.js'

test('the whole story holds, here on a Redis that runs already', async (t) => {
  const redis = await startRedis({ password: 'a password' })
  t.teardown(() => redis.stop())
  const { code, output } = await runDemo(['--check'], { REDIS_URL: redis.url })
  t.ok(Number(await redis.command('DBSIZE')) > 0, 'that Redis was used')
  t.equal(code, 0, output)
  t.match(output, /All \d held\./)
  t.notMatch(output, /✗/)
  t.match(output, /sockets resumed/)
})
