import type { FastifyBaseLogger } from 'fastify'
import { test } from 'tap'
import { OutageLog } from '../src/index.js'

interface Line {
  level: 'warn' | 'info'
  text: string
  [field: string]: unknown
}

function outage() {
  const lines: Line[] = []
  const write = (level: Line['level']) => (fields: object, text: string) =>
    void lines.push({ level, text, ...fields })
  const log = { warn: write('warn'), info: write('info') } as unknown as FastifyBaseLogger
  const time = { now: 1_000 }
  const fields = { plugin: '@flotilla/example' }
  return { lines, time, log: new OutageLog(log, { subject: 'the store', fields, now: () => time.now }) }
}

test('one line at the start, one a minute, one at recovery, with figures', async (t) => {
  const { lines, time, log } = outage()
  log.succeeded()
  t.equal(log.active, false)
  for (let second = 0; second < 90; second++) {
    log.failed(new Error(`connect ECONNREFUSED, attempt ${second}`), { operation: 'read' })
    time.now += 1_000
  }
  t.equal(log.active, true)
  time.now += 10_000
  log.succeeded()
  log.succeeded()
  t.match(lines, [
    { level: 'warn', text: 'the store cannot be reached', operation: 'read', plugin: '@flotilla/example' },
    { level: 'warn', text: 'the store cannot be reached', unlogged: 59, durationMs: 60_000 },
    { level: 'info', text: 'the store is back', failures: 90, unlogged: 29, durationMs: 89_000 }
  ])
  t.equal(lines.length, 3)
  t.notOk('unlogged' in lines[0]!, 'nothing was left out before the first line')
  t.equal(log.active, false)
  log.failed(new Error('connect ECONNREFUSED, attempt 1'))
  t.match(lines[3], { level: 'warn' }, 'the next outage is a new one')
})

test('another cause has a line of its own, by code and by text', async (t) => {
  const { lines, log } = outage()
  const coded = (code: string) => Object.assign(new Error('away'), { code })
  for (const cause of ['ECONNREFUSED', 'ETIMEDOUT', 'ECONNREFUSED', 'ETIMEDOUT']) log.failed(coded(cause))
  log.failed(new Error('NOAUTH'))
  log.failed('a string')
  log.failed(undefined)
  t.same(
    lines.map(({ err }) => (err as { code?: string; message?: string } | undefined)?.code ?? String(err)),
    ['ECONNREFUSED', 'ETIMEDOUT', 'Error: NOAUTH', 'a string', 'undefined']
  )
})

test('one of several servers that fails while the others answer is one outage', async (t) => {
  const { lines, time, log } = outage()
  for (let n = 0; n < 200; n++) {
    log.failed(new Error('away'))
    log.succeeded()
    time.now += 100
  }
  t.equal(lines.length, 1)
  time.now += 5_000
  log.succeeded()
  t.equal(lines.length, 2)
})

test('causes that all differ do not fill the log', async (t) => {
  const { lines, time, log } = outage()
  const name = (n: number): string =>
    String.fromCodePoint(...Array.from(String(n), (digit) => 97 + Number(digit)))
  for (let n = 0; n < 10_000; n++) log.failed(new Error(`no such key: ${name(n)}`))
  t.equal(lines.length, 10)
  time.now += 60_000
  for (let n = 0; n < 10_000; n++) log.failed(new Error(`no such key: ${name(n)}`))
  t.equal(lines.length, 20)
  t.equal(lines[10]!['unlogged'], 9_990)
})
