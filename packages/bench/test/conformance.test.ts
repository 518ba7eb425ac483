import t from 'tap'
import { countsOf } from '../src/conformance/counts.js'

t.test('a test counts only if those that it depends on pass', async (t) => {
  const suites = [
    {
      name: 'one',
      tests: [
        { id: 'passes', name: 'passes' },
        { id: 'fails', name: 'fails', kind: 'required' as const },
        { id: 'depends', name: 'depends on a failure', depends_on: ['fails'] },
        {
          id: 'far',
          name: 'depends on what depends on a failure',
          kind: 'optimal' as const,
          depends_on: ['depends']
        },
        { id: 'unset', name: 'could not be set up', kind: 'optimal' as const },
        { id: 'checked', name: 'a question', kind: 'check' as const },
        { id: 'browser', name: 'not for us', browser_only: true }
      ]
    }
  ]
  const counts = countsOf(suites, {
    passes: true,
    fails: ['Assertion', 'no'],
    depends: true,
    far: true,
    unset: ['Setup', 'broken'],
    checked: false
  })
  t.same(counts.required, { pass: 1, fail: 1, uncounted: 1, raw: 2 })
  t.same(counts.optimal, { pass: 0, fail: 0, uncounted: 2, raw: 1 })
  t.same(counts.check, { pass: 0, fail: 1, uncounted: 0, raw: 0 })
  t.match(counts.table, /raw required \+ optimal: 3 of 5/)
  t.match(counts.failures[0], /^required {2}fails .*Assertion: no/)
  t.equal(counts.failures.length, 2)
})
