import { test } from 'tap'
import { optionReader } from '../src/index.js'

class OptionError extends Error {}
const read = (input: unknown) => optionReader('@flotilla/example', input, OptionError)

test('an absent option gives its default, a present one its value', async (t) => {
  const reader = read({ name: 'a', on: false, count: 3, wait: '2s', room: '1kb', mode: 'fast', list: ['x'] })
  t.equal(reader.string('name', 'b'), 'a')
  t.equal(reader.boolean('on', true), false)
  t.equal(reader.integer('count', { default: 1 }), 3)
  t.equal(reader.duration('wait', { default: 0 }), 2000)
  t.equal(reader.size('room', { default: 0 }), 1024)
  t.equal(reader.oneOf('mode', ['fast', 'safe'], 'safe'), 'fast')
  t.same(reader.strings('list', []), ['x'])
  t.equal(reader.number('ratio', { default: 0.5 }), 0.5)
  t.equal(reader.func('hook', undefined), undefined)
  reader.done()
})

test('a wrong option is named, with what was expected and what came', async (t) => {
  const cases: [string, unknown, (reader: ReturnType<typeof read>) => unknown, RegExp][] = [
    ['string', { a: 5 }, (r) => r.string('a', ''), /option 'a' must be a non-empty string, got 5/],
    ['empty string', { a: '' }, (r) => r.string('a', ''), /option 'a'/],
    ['boolean', { a: 'yes' }, (r) => r.boolean('a', true), /must be true or false, got 'yes'/],
    ['integer', { a: 1.5 }, (r) => r.integer('a', { default: 1 }), /whole number, at least 0, got 1.5/],
    ['range', { a: 11 }, (r) => r.integer('a', { default: 1, min: 1, max: 10 }), /between 1 and 10, got 11/],
    ['NaN', { a: Number.NaN }, (r) => r.number('a', { default: 1 }), /a number.*got NaN/],
    [
      'duration',
      { a: 'soon' },
      (r) => r.duration('a', { default: 1 }),
      /a duration in milliseconds.*got 'soon'/
    ],
    ['unitless duration', { a: '30' }, (r) => r.duration('a', { default: 1 }), /got '30'/],
    ['negative duration', { a: -1 }, (r) => r.duration('a', { default: 1 }), /got -1/],
    ['size', { a: '3 parsecs' }, (r) => r.size('a', { default: 1 }), /a size in bytes/],
    [
      'oneOf',
      { a: 'slow' },
      (r) => r.oneOf('a', ['fast', 'safe'], 'safe'),
      /one of 'fast', 'safe', got 'slow'$/
    ],
    [
      'oneOf, misspelt',
      { a: 'safte' },
      (r) => r.oneOf('a', ['fast', 'safe'], 'safe'),
      /one of 'fast', 'safe', got 'safte'; did you mean 'safe'\?$/
    ],
    [
      'oneOf, no text',
      { a: 7 },
      (r) => r.oneOf('a', ['fast', false], 'fast'),
      /one of 'fast', false, got 7$/
    ],
    ['func', { a: {} }, (r) => r.func('a', undefined), /a function, got an object/],
    ['strings', { a: ['x', 1] }, (r) => r.strings('a', []), /a list of non-empty strings, got a list/],
    ['null', { a: null }, (r) => r.string('a', 'x'), /got null/]
  ]
  for (const [name, input, run, message] of cases) t.throws(() => run(read(input)), { message }, name)
})

test('options that are not an object are refused', async (t) => {
  for (const input of [null, [], 'x', 3])
    t.throws(() => read(input), { message: /options must be an object/ })
})

test('an unknown option fails, naming the known ones; those of register itself pass', async (t) => {
  const reader = read({ ttl: 1, tll: 2, prefix: '/x', logLevel: 'warn' })
  reader.duration('ttl', { default: 0 })
  reader.boolean('local', true)
  t.throws(() => reader.done(), {
    message: "@flotilla/example: unknown option 'tll'; did you mean 'ttl'? Known options: ttl, local"
  })
  const other = read({ prefix: '/x', logLevel: 'warn', colour: 'red' })
  other.boolean('local', true)
  t.throws(() => other.done(), {
    message: "@flotilla/example: unknown option 'colour'; known options: local"
  })
})

test('a group names its options in full and refuses unknown ones', async (t) => {
  const group = (input: unknown) =>
    read(input).group('local', (r) => ({ maxAge: r.duration('maxAge', { default: 5 }) }))
  t.equal(group({}), undefined)
  t.same(group({ local: { maxAge: '1s' } }), { maxAge: 1000 })
  t.throws(() => group({ local: { maxAge: 'x' } }), { message: /option 'local.maxAge'/ })
  t.throws(() => group({ local: { max: 1 } }), { message: /unknown option 'local.max'; known here: maxAge$/ })
  t.throws(() => group({ local: true }), { message: /option 'local' must be an object, got true/ })
})

test('secrets are checked for length and never echoed', async (t) => {
  const long = 'x'.repeat(32)
  t.equal(read({ secret: long }).secret('secret', 32), long)
  t.same(read({ secret: [long, Buffer.alloc(32)] }).secret('secret', 32), [long, Buffer.alloc(32)])
  for (const secret of ['hunter2', [], [long, 'hunter2'], undefined, 5]) {
    try {
      read({ secret }).secret('secret', 32)
      t.fail('accepted')
    } catch (error) {
      t.match((error as Error).message, /option 'secret' must be a secret of at least 32 bytes/)
      t.notMatch((error as Error).message, /hunter2/)
    }
  }
})

test('raw options, presence and names', async (t) => {
  const reader = read({ own: 1, other: undefined })
  t.equal(reader.raw('own'), 1)
  t.ok(reader.has('own'))
  t.notOk(reader.has('other'))
  t.same(reader.keys(), ['own', 'other'])
  t.throws(() => reader.fail('own', 'something else'), {
    message: /option 'own' must be something else, got 1/
  })
})
