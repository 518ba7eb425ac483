import t from 'tap'
import { AsyncScope } from '../src/async-scope.js'
import { gate } from './support/app.js'

t.test('work finds its own value again, and none once all work is over', async (t) => {
  const scope = new AsyncScope<string>()
  const [first, second, late] = [gate(), gate(), gate()]
  let leftBehind: Promise<string | undefined> | undefined
  const one = scope.run('one', async () => {
    leftBehind = late.passed.then(() => scope.current)
    await first.passed
    return scope.current
  })
  const two = scope.run('two', async () => {
    await second.passed
    return scope.run('inner', () => scope.current)
  })
  t.equal(scope.current, undefined, 'outside of it')
  first.open()
  t.equal(await one, 'one')
  second.open()
  t.equal(await two, 'inner')
  late.open()
  t.equal(await leftBehind, undefined, 'switched off: promises cost no more than before')
  await t.rejects(
    scope.run('three', () => {
      throw new Error('at once')
    }),
    { message: 'at once' }
  )
  t.equal(await scope.run('four', async () => scope.current), 'four', 'and on again')
})
