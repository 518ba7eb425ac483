import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { chmod, readFile } from 'node:fs/promises'
import { request } from 'node:http'
import type { Socket } from 'node:net'
import { delimiter, join } from 'node:path'
import { isDeepStrictEqual, promisify } from 'node:util'
import { test } from 'tap'
import { deploymentFile } from '../src/deployment-files.js'
import { startApp, startHAProxy, startNginx, until, type Balancer } from '../src/index.js'

const script = new URL('./fixtures/app.ts', import.meta.url)

interface Echoed {
  port: number
  headers: Record<string, string>
}

async function ask(balancer: Balancer, headers: Record<string, string> = {}, post = false): Promise<Echoed> {
  const response = await fetch(balancer.url, {
    headers: { connection: 'close', ...headers },
    ...(post && { method: 'POST', body: 'not repeatable' })
  })
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`)
  return (await response.json()) as Echoed
}

async function servedBy(balancer: Balancer, requests = 12): Promise<number[]> {
  const seen = new Set<number>()
  for (let index = 0; index < requests; index += 1) seen.add((await ask(balancer)).port)
  return sorted([...seen])
}

/**
 * One look that sees just these. While nginx reloads, its old workers go on accepting for 100 ms beside the new
 * ones, so that a second look may again see what the first did not.
 */
async function serves(
  balancer: Balancer,
  instances: readonly { port: number }[],
  message: string
): Promise<void> {
  const expected = sorted(instances.map(({ port }) => port))
  await until(async () => isDeepStrictEqual(await servedBy(balancer), expected), { timeout: 30_000, message })
}

function sorted(ports: number[]): number[] {
  return ports.toSorted((a, b) => a - b)
}

for (const [name, start] of Object.entries({ nginx: startNginx, HAProxy: startHAProxy })) {
  test(`${name}, as it is deployed`, async (t) => {
    const fleet = await startApp({ script, instances: 3 })
    t.teardown(() => fleet.stop())
    const balancer = await start({ servers: fleet.instances })
    t.teardown(() => balancer.stop())

    await serves(balancer, fleet.instances, 'every instance serves')

    await t.test('a client cannot claim to be somebody else', async (child) => {
      const { headers } = await ask(balancer, {
        'x-forwarded-for': '203.0.113.9',
        'x-forwarded-proto': 'https',
        'x-real-ip': '203.0.113.9'
      })
      child.equal(headers['x-forwarded-for'], '127.0.0.1')
      child.equal(headers['x-forwarded-proto'], 'http')
      child.equal(headers['x-real-ip'], '127.0.0.1')
    })

    await t.test('WebSockets are upgraded', async (child) => {
      const upgrade = request(balancer.url, {
        headers: {
          connection: 'Upgrade',
          upgrade: 'websocket',
          'sec-websocket-version': '13',
          'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ=='
        }
      })
      upgrade.end()
      const [response, socket] = (await once(upgrade, 'upgrade')) as [{ statusCode: number }, Socket]
      child.equal(response.statusCode, 101)
      socket.write('through')
      const [data] = (await once(socket, 'data')) as [Buffer]
      child.equal(data.toString(), 'through')
      socket.destroy()
    })

    await t.test("operators' pages stay inside", async (child) => {
      child.equal((await fetch(`${balancer.url}/metrics`)).status, 404)
      child.equal((await fetch(`${balancer.url}/health/fleet`)).status, 404)
      child.equal((await fetch(`${balancer.url}/health/ready`)).status, 200)
    })

    const [first, second, third] = fleet.instances as [
      (typeof fleet.instances)[0],
      (typeof fleet.instances)[0],
      (typeof fleet.instances)[0]
    ]

    await t.test('an instance that is killed fails no request', async (child) => {
      await first.kill()
      child.strictSame(await servedBy(balancer), sorted([second.port, third.port]))
      for (let index = 0; index < 6; index += 1) {
        child.ok(await ask(balancer, {}, true))
      }
      await first.restart()
      await serves(balancer, fleet.instances, 'the instance is back')
    })

    await t.test('an instance that is not ready gets nothing new', async () => {
      await second.call('drain')
      await serves(balancer, [first, third], 'the draining instance is left out')
    })

    await t.test('servers are changed without a restart', async (child) => {
      const { pid } = balancer
      await balancer.setServers([third])
      await serves(balancer, [third], 'the new list counts')
      child.equal(balancer.pid, pid)
      await second.restart()
      await balancer.setServers(fleet.instances)
      await serves(balancer, fleet.instances, 'all are back')
    })

    if (name !== 'nginx') return
    await t.test('a list that is empty all at once is said, and not believed', async (child) => {
      await balancer.setServers([])
      await until(() => balancer.output().includes('has no address any more'))
      child.strictSame(await servedBy(balancer), sorted(fleet.instances.map(({ port }) => port)))
    })
  })
}

test('nginx keeps clients through a reload from the version on that can', async (t) => {
  const run = promisify(execFile)
  const versions = {
    'nginx/1.22.1': false,
    'nginx/1.27.3': false,
    'nginx/1.27.4': true,
    'nginx/1.28.0 (Ubuntu)': true,
    'nginx/1.30.6': true,
    'nginx/2.0.0': true,
    'openresty/1.27.1.2': false
  }
  for (const [version, keeps] of Object.entries(versions)) {
    const folder = t.testdir({
      // Says its version; there is nothing to serve.
      nginx: `#!/bin/sh\n[ "$1" != -v ] || echo "nginx version: ${version}" >&2\n`,
      servers: '127.0.0.1:9\n'
    })
    await chmod(join(folder, 'nginx'), 0o755)
    await run('/bin/sh', [await deploymentFile('nginx/run.sh')], {
      env: {
        PATH: [folder, process.env['PATH']].join(delimiter),
        NGINX_DIR: join(folder, 'run'),
        SERVERS_FILE: join(folder, 'servers'),
        CHECK_INTERVAL: '0.01'
      }
    })
    const written = await readFile(join(folder, 'run', 'listen.conf'), 'utf8')
    t.equal(written, `listen 8080;\n${keeps ? 'keepalive_min_timeout 30s;\n' : ''}`, version)
  }
})
