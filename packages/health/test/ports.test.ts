import { once } from 'node:events'
import { connect } from 'node:net'
import Fastify from 'fastify'
import { test } from 'tap'
import { startApp, until } from '@flotilla/testbed'
import health from '../src/index.js'
import { agentReply } from '../src/agent-reply.js'
import { SharedStatus } from '../src/responder/shared-status.js'

const script = new URL('./apps/instance.ts', import.meta.url)

async function ask(port: number): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  let text = ''
  socket.on('data', (chunk) => (text += String(chunk)))
  await once(socket, 'close')
  return text
}

test('the agent-check speaks of load, drain, maintenance and readiness', async (t) => {
  const app = Fastify()
  await app.register(health, {
    agent: { port: 0, host: '127.0.0.1' },
    drain: { signals: false, delay: 400, quiet: 0 }
  })
  t.teardown(() => app.close())
  const port = app.health.ports.agent!
  t.equal(await ask(port), 'down #starting\n', 'before the app is ready')
  await app.listen({ port: 0, host: '127.0.0.1' })
  t.match(await ask(port), /^ready up \d+%\n$/)
  app.health.maintenance(true)
  t.equal(await ask(port), 'maint\n')
  app.health.maintenance(false)
  t.match(await ask(port), /^ready up/)
  app.health.addCheck('db', () => ({ ok: false }))
  await until(() => app.health.state === 'down')
  t.equal(await ask(port), 'down #down\n')
  const drained = app.health.drain()
  t.equal(await ask(port), 'drain\n')
  t.equal(await drained, true)
  await t.rejects(ask(port), { code: 'ECONNREFUSED' })
})

test('the weight falls with the load and is never 0', (t) => {
  const at = (utilization: number, overloaded = false): string =>
    agentReply({ state: 'ready', maintenance: false, overloaded, utilization })
  t.equal(at(0), 'ready up 100%\n')
  t.equal(at(0.6), 'ready up 100%\n')
  t.equal(at(0.8), 'ready up 55%\n')
  t.equal(at(1), 'ready up 10%\n')
  t.equal(at(1, true), 'ready up 1%\n')
  t.end()
})

test('a checker that hangs up or sends junk does no harm', async (t) => {
  const app = Fastify()
  await app.register(health, { agent: { port: 0, host: '127.0.0.1' }, drain: { signals: false } })
  t.teardown(() => app.close())
  await app.ready()
  const port = app.health.ports.agent!
  for (let turn = 0; turn < 20; turn++)
    connect(port, '127.0.0.1')
      .on('error', () => undefined)
      .destroy()
  const junk = connect(port, '127.0.0.1').on('error', () => undefined)
  junk.write(Buffer.alloc(100_000))
  t.match(await ask(port), /^ready up/)
  junk.destroy()
})

test('a beat in the midst of a look at the clock is no silence of 25 days', (t) => {
  const status = new SharedStatus()
  status.beat()
  const { bigint } = process.hrtime
  t.teardown(() => {
    process.hrtime.bigint = bigint
  })
  process.hrtime.bigint = () => {
    const looked = bigint()
    // The other thread's beat, a moment later.
    process.hrtime.bigint = () => looked + 5_000_000n
    status.beat()
    process.hrtime.bigint = bigint
    return looked
  }
  t.ok(status.silence < 60_000, `${status.silence} ms`)
  t.end()
})

test('the worker answers while the main loop is blocked, and says so', async (t) => {
  const worker = { port: 0, agentPort: 0, host: '127.0.0.1', blockedAfter: 300 }
  const HEALTH = JSON.stringify({ worker, version: '3', instance: 'w', drain: { delay: 0 } })
  const fleet = await startApp({ script, env: { HEALTH } })
  t.teardown(() => fleet.stop())
  const [app] = fleet.instances
  const ports = await app!.call<{ worker: number; workerAgent: number }>({ do: 'ports' })
  const live = async (): Promise<{ status: number; body: { status: string; lag: number }; took: number }> => {
    const began = performance.now()
    const answer = await fetch(`http://127.0.0.1:${ports.worker}/`)
    const body = (await answer.json()) as { status: string; lag: number }
    return { status: answer.status, body, took: performance.now() - began }
  }
  t.match(await live(), { status: 200, body: { status: 'healthy', instance: 'w', version: '3' } })
  await until(async () => (await ask(ports.workerAgent)).startsWith('ready up'))
  const blocked = fetch(`${app!.url}/block?ms=1500`)
  let slowest = 0
  const seen = await until(async () => {
    const answer = await live()
    slowest = Math.max(slowest, answer.took)
    return answer.status === 503 && answer
  })
  t.match(seen.body, { status: 'blocked', lag: Number })
  t.ok(seen.body.lag > 300)
  t.match(await ask(ports.workerAgent), /^down #blocked for \d+ ms\n$/)
  t.ok(slowest < 500, `slowest answer of the worker ${Math.round(slowest)} ms`)
  await blocked
  await until(async () => (await live()).status === 200)
  await until(async () => (await ask(ports.workerAgent)).startsWith('ready up'))
})
