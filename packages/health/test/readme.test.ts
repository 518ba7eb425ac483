import { readFile, rm, writeFile } from 'node:fs/promises'
import { test } from 'tap'
import { startApp, startRedis } from '@flotilla/testbed'

const readme = await readFile(new URL('../README.md', import.meta.url), 'utf8')
const examples = Array.from(readme.matchAll(/```ts\n(.*?)```/gs), ([, code]) => code!)

test('every example of the README starts and answers its probes', async (t) => {
  t.equal(examples.length, 6)
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const run = async (code: string, index: number): Promise<void> => {
    const script = new URL(`./readme-example-${index + 1}.ts`, import.meta.url)
    await writeFile(script, code)
    t.teardown(() => rm(script, { force: true }))
    const env = { REDIS_URL: redis.url, ADMIN_PORT: '0', AGENT_PORT: '0', WORKER_PORT: '0', APP_VERSION: '5' }
    const fleet = await startApp({ script, env, readyPath: '/health/live', readyTimeout: 60_000 })
    t.teardown(() => fleet.stop())
    const answer = await fetch(`${fleet.urls[0]}/health`)
    t.match(await answer.json(), { version: '5', uptime: Number }, `example ${index + 1}`)
    await fleet.instances[0]!.kill('SIGKILL')
  }
  await Promise.all(examples.map(run))
})
