import { test } from 'tap'
import { didYouMean, nearestName } from '../src/index.js'

test('the nearest name: one letter in three wrong, missing, extra or swapped, or another case', async (t) => {
  const known = ['commandTimeout', 'connectTimeout', 'keyPrefix', 'ttl', 'url', 'replicas', 'redis']
  for (const [given, meant] of [
    ['commandTimout', 'commandTimeout'],
    ['conectTimeout', 'connectTimeout'],
    ['KEYPREFIX', 'keyPrefix'],
    ['keyprefx', 'keyPrefix'],
    ['tll', 'ttl'],
    ['ttll', 'ttl'],
    ['rul', 'url'],
    ['repilcas', 'replicas'],
    ['prefix', undefined],
    ['colour', undefined],
    ['x', undefined],
    ['', undefined],
    ['x'.repeat(10_000), undefined]
  ] as const) {
    t.equal(nearestName(given, known), meant, given.slice(0, 20))
  }
  t.equal(nearestName('a', ['A']), 'A')
  t.equal(nearestName('anything', []), undefined)
})

test('as the end of an error text', async (t) => {
  t.equal(didYouMean('replica', new Set(['replicas'])), "; did you mean 'replicas'?")
  t.equal(didYouMean('colour', ['replicas']), '')
})
