import { test } from 'tap'
import { runDemo } from './run-demo.js'

test('sessions kept in process memory are found out, by name', async (t) => {
  const { code, output } = await runDemo(
    ['--check', '--haproxy', '--instances', '2', '--only', 'session made'],
    {
      DEMO_FAULT: 'memory-sessions'
    }
  )
  t.equal(code, 1, output)
  t.match(output, /✗ a session made on one instance is read on every other/)
  t.match(output, /Did not hold: a session made on one instance/)
})

test('a cache of each instance alone is found out', async (t) => {
  const { code, output } = await runDemo(['--check', '--only', 'computed once'], {
    DEMO_FAULT: 'local-cache'
  })
  t.equal(code, 1, output)
  t.match(output, /✗ a value missing everywhere is computed once.* 3 computations/)
})
