import { startApp, startRedis } from '@flotilla/testbed'
import tap, { test } from 'tap'
import { Browser } from './support/browser.js'

const redis = await startRedis()
const fleet = await startApp({
  script: new URL('./support/process.ts', import.meta.url),
  instances: 3,
  env: { APP_SETTINGS: JSON.stringify({ url: redis.url }) }
})
tap.teardown(async () => {
  await fleet.stop()
  await redis.stop()
})

test('a session made on one process is read on another', async (t) => {
  const browser = new Browser(fleet.urls)
  const { status, setCookie, headers } = await browser.post(
    '/set',
    { cart: { items: ['book'] }, count: 3 },
    0
  )
  t.equal(status, 200)
  t.equal(setCookie.length, 1)
  t.equal(headers.get('cache-control'), 'no-store')
  for (const at of [1, 2]) {
    const { body, setCookie: again } = await browser.get('/data', at)
    t.same(body, { cart: { items: ['book'] }, count: 3 })
    t.equal(again.length, 0)
  }
})

test('fifty parallel requests on three processes each write their own field: all survive', async (t) => {
  const browser = new Browser(fleet.urls)
  await browser.post('/set', { first: 1 })
  const writes = Array.from({ length: 50 }, (_none, n) => browser.post('/set', { [`field${n}`]: n }, n))
  for (const { status } of await Promise.all(writes)) t.equal(status, 200)
  const { body } = await browser.get('/data')
  t.equal(Object.keys(body).length, 51)
})

test('a thousand atomic updates on three processes count to a thousand', async (t) => {
  const browser = new Browser(fleet.urls)
  await browser.post('/set', { count: 0 })
  for (let batch = 0; batch < 10; batch++) {
    const updates = Array.from({ length: 100 }, (_none, n) => browser.post('/update/count', {}, n))
    for (const { status } of await Promise.all(updates)) if (status !== 200) t.fail(`status ${status}`)
  }
  const { body } = await browser.get('/get/count')
  t.equal(body['value'], 1000)
})
