import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { test } from 'tap'
import { buildApp } from '../dist/app.js'
import { readConfig } from '../dist/config.js'
import { startFleet, type Fleet } from './fleet.js'
import { runDemo } from './run-demo.js'

let fleet: Fleet

test('a fleet', async () => {
  fleet = await startFleet()
})

test('--check --url walks what a balancer alone can show', async (t) => {
  const { code, output } = await runDemo(['--check', '--url', `${fleet.url}/`])
  t.equal(code, 0, output)
  t.match(output, /All 6 held\./)
  t.notMatch(output, /killed|rolling restart/)
})

test(
  '--check --url says so where fewer instances answer than were asked for',
  { timeout: 60_000 },
  async (t) => {
    const { code, output } = await runDemo([
      '--check',
      '--url',
      fleet.url,
      '--instances',
      '4',
      '--only',
      'who it is'
    ])
    t.equal(code, 1, output)
    t.match(output, /shows 4 healthy instances/)
  }
)

test('ports for HAProxy and for operators, when asked for', async (t) => {
  const app = await buildApp(
    readConfig({
      REDIS_URL: fleet.redisUrl,
      DATABASE_URL: fleet.postgres.primary.url,
      SESSION_SECRET: 'one secret of thirty-two characters',
      ADMIN_PORT: '0',
      AGENT_PORT: '0'
    })
  )
  t.teardown(() => app.close())
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const agent = connect(app.health.ports.agent!, '127.0.0.1')
  const [line] = (await once(agent, 'data')) as [Buffer]
  t.match(line.toString(), /^ready up \d+%\n$/)
  t.equal((await fetch(`${url}/metrics`)).status, 403, 'not on the port of visitors')
  const metrics = await fetch(`http://127.0.0.1:${app.health.ports.admin}/metrics`)
  t.match(await metrics.text(), /^flotilla_upgraded_connections\{.*\} 0$/m)
})

test('the image opens the port that HAProxy asks', async (t) => {
  const read = (name: string): Promise<string> =>
    readFile(new URL(`../../../docker/${name}`, import.meta.url), 'utf8')
  const port = /agent-port (\d+)/.exec(await read('haproxy/servers-dns.cfg'))?.[1]
  t.match(await read('Dockerfile'), new RegExp(`AGENT_PORT=${port}\n`))
})

test('the end of the fleet', () => fleet.stop())
