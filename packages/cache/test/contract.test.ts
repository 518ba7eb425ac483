import { onEachTopology } from '@flotilla/testbed'
import t, { type Test } from 'tap'
import { startApp } from './support/app.js'
import { contract } from './support/contract.js'

t.test('memory only', (t) => contract(t, (t, options) => startApp(t, undefined, options), false))

void onEachTopology<Test>(t, async (t, { url }) => {
  await contract(t, (t, options) => startApp(t, url, options), true)
})
