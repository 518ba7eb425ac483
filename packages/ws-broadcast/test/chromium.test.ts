import { findProgram, startProxy, startRedis, until } from '@flotilla/testbed'
import { build } from 'esbuild'
import { chromium } from 'playwright-core'
import { test } from 'tap'
import type { BroadcastClient } from '../src/client/index.js'
import { RawClient, startTestApp } from './app.js'

interface Page {
  client: BroadcastClient
  seen: unknown[]
  events: string[]
  ended: [code: number, reason: string]
}

/** Of the client; its other events come in between. */
const STATES = { connecting: 1, open: 1, closed: 1 }

test(
  'the client in Chromium: subscribes, is cut, resumes, sees presence, wakes, learns that its login has expired',
  { timeout: 110_000 },
  async (t) => {
    const found = await findProgram('chromium').catch((error: Error & { code?: string }) => {
      if (error.code === 'FLOTILLA_TESTBED_ERR_PROGRAM_MISSING') return error
      throw error
    })
    if (found instanceof Error) {
      t.plan(0, found.message)
      return
    }
    const { path, env } = found
    const { outputFiles } = await build({
      entryPoints: [new URL('../src/client/index.ts', import.meta.url).pathname],
      bundle: true,
      format: 'iife',
      globalName: 'flotilla',
      write: false
    })
    const redis = await startRedis()
    t.teardown(() => redis.stop())
    let isLoggedIn = true
    const authenticate = (): object | null => (isLoggedIn ? {} : null)
    const server = await startTestApp(t, redis.url, { authenticate }, (app) => {
      app.get('/', (_request, reply) => reply.type('text/html').send('<script src="/client.js"></script>'))
      app.get('/client.js', (_request, reply) => reply.type('text/javascript').send(outputFiles[0]!.text))
    })
    const proxy = await startProxy({ host: '127.0.0.1', port: Number(new URL(server.url).port) })
    t.teardown(() => proxy.stop())
    const browser = await chromium.launch({
      executablePath: path,
      env: { ...(process.env as Record<string, string>), ...env },
      args: [
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync'
      ]
    })
    t.teardown(() => browser.close())
    const page = await browser.newPage()
    await page.goto(`http://127.0.0.1:${proxy.port}/`)
    await page.evaluate(`
    const client = flotilla.connect('/ws', { reconnect: { min: 20, max: 100 } })
    window.seen = []
    window.events = []
    window.client = client
    client.on('gap', ({ reason }) => events.push('gap ' + reason))
    client.on('state', ({ state, code, reason }) => {
      events.push(state)
      window.ended = [code, reason]
    })
    client.on('presence', ({ type }) => events.push(type))
    client.subscribe('news', ({ data }) => seen.push(data))
    client.subscribe('room:1').ready
  `)
    const look = <Name extends keyof Page>(name: Name): Promise<Page[Name]> => page.evaluate(`window.${name}`)

    for (let n = 0; n < 30; n += 1) {
      if (n === 10) proxy.cut()
      if (n === 20) {
        // Back from the cut, or the two interruptions would be one.
        await until(async () => (await look('events')).filter((event) => event === 'open').length >= 2)
        await proxy.refuse()
      }
      await server.app.broadcast.publish('news', n)
    }
    await until(async () => (await look('events')).at(-1) === 'connecting')
    await proxy.restore()
    await until(async () => (await look('seen')).length >= 30)
    t.same(
      await look('seen'),
      Array.from({ length: 30 }, (_none, n) => n),
      'once and in order'
    )

    const other = await RawClient.open(t, server.ws)
    await other.subscribe('room:1')
    await until(async () => (await look('events')).includes('join'))
    const members = await page.evaluate(`client.presence('room:1')`)
    t.equal((members as unknown[]).length, 2)
    const ack = await page.evaluate(`client.publish('room:1', { from: 'a browser' })`)
    t.match(ack, { offset: /^\d+-\d+$/ })
    await until(() => other.data('room:1').length > 0)
    t.same(other.data('room:1'), [{ from: 'a browser' }])
    const events = await look('events')
    t.ok(events.filter((event) => event === 'open').length >= 3, events.join(' '))
    t.notOk(events.some((event) => event.startsWith('gap')))

    const reported: string[] = []
    page.on('pageerror', ({ message }) => reported.push(message))
    await page.evaluate(`
    client.on('message', ({ channel }) => events.push('message of ' + channel))
    client.subscribe('plain:1', () => { throw new Error('of a handler') }).ready
  `)
    await server.app.broadcast.publish('plain:1', 1)
    await until(async () => (await look('events')).includes('message of plain:1'), {
      message: 'a handler that throws keeps nothing from the others'
    })
    await until(() => reported.length > 0)
    t.same(reported, ['of a handler'], 'its error is reported as that of any listener')

    const elsewhere = await browser.newPage()
    await elsewhere.route('http://evil.example/', (route) =>
      route.fulfill({ body: '', contentType: 'text/html' })
    )
    await elsewhere.goto('http://evil.example/')
    const foreign = await elsewhere.evaluate(`new Promise((resolve) => {
    const socket = new WebSocket('${server.ws}')
    socket.onopen = () => resolve('open')
    socket.onclose = () => resolve('refused')
  })`)
    t.equal(foreign, 'refused', 'a page of another origin does not get in')

    // The default interval of pings would take 50 seconds.
    proxy.blackhole()
    await page.context().setOffline(true)
    await page.context().setOffline(false)
    await until(async () => (await look('events')).at(-1) === 'connecting', {
      message: 'the page looks after its connection when the network is back'
    })
    await proxy.restore()
    await until(async () => (await look('events')).findLast((event) => event in STATES) === 'open', {
      message: 'and makes it anew'
    })

    isLoggedIn = false
    proxy.cut()
    await until(async () => (await look('events')).at(-1) === 'closed')
    t.same(await look('ended'), [4401, 'log in first'], 'a script can see why')
  }
)
