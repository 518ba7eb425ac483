import { test } from 'tap'
import { comparisons, insert, sectionOf, summaryOf } from '../src/comparison.js'
import type { Report } from '../src/harness/report.js'

const result = (subject: string, median: number) => ({ subject, median, min: median, max: median, rounds: 7 })
const report = {
  suite: 'ws',
  node: 'v20.1.0',
  machine: 'a machine, 2 cores, 4 GB',
  date: '2026-01-02T03:04:05.000Z',
  quick: false,
  cases: [
    {
      suite: 'ws',
      case: 'rate',
      title: 'how many',
      unit: 'messages/s',
      higherIsBetter: true,
      results: [result('flotilla', 12_345.6), result('floor', 20_000), result('peer', 1_000)],
      ratios: { 'flotilla/floor': 0.617, 'flotilla/peer': 12.3456 }
    },
    {
      suite: 'ws',
      case: 'wait',
      title: 'how long',
      unit: 'ms',
      higherIsBetter: false,
      results: [result('flotilla', 4), result('peer', 2)],
      ratios: { 'flotilla/peer': 2 }
    },
    {
      suite: 'ws',
      case: 'wrong',
      title: 'how many are wrong',
      unit: 'wrong answers',
      higherIsBetter: false,
      results: [result('flotilla', 0), result('peer', 7)],
      ratios: { 'flotilla/peer': 0 }
    }
  ]
} satisfies Report

test('every comparison is what the result of its full run says', async (t) => {
  const documents = await comparisons()
  t.ok(documents.length > 1)
  for (const { path, is, must } of documents)
    t.equal(is, must, `${path}; after a new run: node packages/bench/dist/comparison.js`)
})

test('a ratio says how many times better, whichever way better is', async (t) => {
  const section = sectionOf(report)
  t.match(section, 'a machine, 2 cores, 4 GB, Node.js 20.1.0, 2026-01-02')
  t.match(section, '| how many | 12,300 (12,300 to 12,300) messages/s | peer 12× | floor 0.62× |')
  t.match(section, '| how long | 4 (4 to 4) ms | peer 0.50× |  |', 'twice as long is half as good')
  t.match(section, '| how many are wrong | 0 (0 to 0) wrong answers | peer has 7 wrong answers |  |')
  t.match(
    summaryOf([report]),
    'ws-broadcast`](packages/ws-broadcast/README.md#measured-beside-its-peers) | 3 | peer 0.50× to 12× |'
  )
})

test('a section goes between its marks alone', async (t) => {
  const text = 'a\n<!-- measured -->\nold $1\n<!-- /measured -->\nb\n'
  t.equal(insert(text, '$& new'), 'a\n<!-- measured -->\n\n$& new\n\n<!-- /measured -->\nb\n')
  t.throws(() => insert('no marks', ''), /no <!-- measured -->/)
})
