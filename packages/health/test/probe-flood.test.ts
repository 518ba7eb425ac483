import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import Fastify from 'fastify'
import { test } from 'tap'
import { until } from '@flotilla/testbed'
import health from '../src/index.js'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

const SOCKETS = 20
const BATCH = 100
const PATHS = ['/health', '/health/ready', '/health/live', '/health/startup']

interface Flood {
  /** Answers by path, status and the word that they say. */
  answers: Map<string, number>
  perSecond: number
}

/** `rounds` batches of pipelined probes on each of twenty keep-alive connections, as fast as they are answered. */
async function flood(port: number, rounds: number): Promise<Flood> {
  const answers = new Map<string, number>()
  const began = performance.now()
  const lane = async (path: string): Promise<void> => {
    const socket = connect(port, '127.0.0.1').setEncoding('latin1')
    await once(socket, 'connect')
    for (let round = 0; round < rounds; round++) {
      for (const answer of await batch(socket, path)) {
        const key = `${path} ${answer}`
        answers.set(key, (answers.get(key) ?? 0) + 1)
      }
    }
    socket.destroy()
  }
  await Promise.all(Array.from({ length: SOCKETS }, (_, at) => lane(PATHS[at % PATHS.length]!)))
  const seconds = (performance.now() - began) / 1000
  return { answers, perSecond: Math.round((SOCKETS * BATCH * rounds) / seconds) }
}

/** A hundred probes in one write, and the status and word of each answer. */
async function batch(socket: Socket, path: string): Promise<string[]> {
  socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`.repeat(BATCH))
  const answer = /HTTP\/1\.1 (\d+) [^{]*\{"status":"(\w+)",[^{}]*"uptime":\d+\}/g
  const answers: string[] = []
  let text = ''
  while (answers.length < BATCH) {
    const [chunk] = (await once(socket, 'data')) as [string]
    text += chunk
    for (let end = answer.lastIndex; ; end = answer.lastIndex) {
      const match = answer.exec(text)
      if (match === null) {
        answer.lastIndex = end
        break
      }
      answers.push(`${match[1]} ${match[2]}`)
    }
  }
  return answers
}

test('probes as fast as they can be asked run no check, are answered right and leave nothing behind', async (t) => {
  const app = Fastify()
  await app.register(health, { drain: { signals: false }, checks: { failures: 1, jitter: 0 } })
  t.teardown(() => app.close())
  let rare = 0
  let often = 0
  let ok = true
  app.health.addCheck('rare', () => void rare++, { interval: '1h' })
  app.health.addCheck('often', () => ({ ok: (often++, ok) }), { interval: 50 })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as { port: number }
  await until(() => app.health.state === 'ready')

  const rounds = 5
  const each = (SOCKETS / PATHS.length) * BATCH * rounds
  const expected = (bad: boolean): Map<string, number> =>
    new Map(
      PATHS.map((path) => {
        const fails = bad && (path === '/health' || path === '/health/ready')
        return [`${path} ${fails ? '503 unhealthy' : '200 healthy'}`, each]
      })
    )
  const began = performance.now()
  const before = often
  const first = await flood(port, rounds)
  t.same(first.answers, expected(false))
  collect()
  const heap = process.memoryUsage().heapUsed
  const second = await flood(port, rounds)
  t.same(second.answers, expected(false))
  collect()
  const grown = process.memoryUsage().heapUsed - heap
  t.ok(grown < 500_000, `${SOCKETS * BATCH * rounds} more probes: the heap grew by ${grown} bytes`)
  t.equal(rare, 1)
  t.ok(
    often - before <= (performance.now() - began) / 50 + 1,
    `${often - before} runs of a check every 50 ms`
  )

  ok = false
  await until(() => app.health.state === 'down')
  t.same((await flood(port, rounds)).answers, expected(true), 'from then on all say so')
  t.equal(rare, 1)
  t.comment(`${first.perSecond} and ${second.perSecond} probes a second`)
})
