import { once } from 'node:events'
import { startRedis } from '@flotilla/testbed'
import { test } from 'tap'
import { WebSocket } from 'ws'
import { startTestApp } from './app.js'

test('an upgrade that comes while the app closes is refused, and does not hold the close up', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const { app, ws } = await startTestApp(t, redis.url)
  const client = new WebSocket(ws)
  await once(client, 'open')
  // A client that answers no close keeps the drain busy: the server still listens meanwhile.
  client.pause()
  const closed = app.close()
  const late = new WebSocket(ws)
  const [error] = (await once(late, 'error')) as [Error]
  t.match(error.message, /503/)
  client.resume()
  await closed
  t.pass('the app has closed')
})
