import { freePort } from '../ports.js'
import { until } from '../until.js'
import { badInputSteps } from './bad-input.js'
import { command, docker, interrupted } from './engine.js'
import type { Images } from './images.js'
import type { Report } from './report.js'
import { ComposeStack } from './stack.js'
import { instancesSeen, Load, lost, Visitor } from './visitor.js'

/** Which files of secrets each service may see, and that it can read each of them. */
const SECRETS: Record<string, string> = {
  app: 'database_replica_url database_url redis_url session_secret',
  redis: 'redis.conf redis_password',
  pgbouncer: 'app_password userlist.txt',
  'postgres-primary': 'app_password postgres_password replication_password',
  'postgres-replica': 'replication_password',
  balancer: ''
}

/** Brings a stack up, hands it to `use`, and takes it down whatever happens. */
async function withStack(
  report: Report,
  images: Images,
  overlays: readonly string[],
  use: (stack: ComposeStack) => Promise<void>
): Promise<void> {
  const stack = new ComposeStack(images, ['compose.yaml', ...overlays], await freePort())
  if (interrupted.aborted) return
  const name = ['compose', ...overlays.map((file) => file.split('.')[1])].join(' ')
  const diagnosis = (): Promise<string> => stack.diagnosis()
  try {
    const up = async (): Promise<string> => {
      await stack.run(['up', '-d', '--no-build'], images.first, { timeout: 300_000 })
      const visitor = new Visitor(stack.url)
      await until(async () => (await visitor.ask('GET', '/health/ready')).status === 200, {
        timeout: 120_000,
        message: 'the stack answers through its published port'
      })
      return stack.url
    }
    if (!(await report.step(`${name}: up and healthy`, up, { diagnosis }))) return
    await report.step(`${name}: the demo's check, from outside`, () => demoCheck(stack.url), { diagnosis })
    await use(stack)
  } finally {
    await report.step(`${name}: down`, () => stack.remove(), { cleans: true })
  }
}

/** Sessions, cache, sockets, read-your-writes and revocation, through the published port. */
async function demoCheck(url: string): Promise<string> {
  const output = await command('node', ['examples/demo/dist/main.js', '--check', '--url', url])
  return String(output.split('\n').at(-1))
}

/** The stack as it is by default: used, scaled, hurt, rolled, and told wrong things. */
export async function composeSteps(
  report: Report,
  images: Images,
  overlays: readonly string[]
): Promise<void> {
  await withStack(report, images, overlays, async (stack) => {
    const load = new Load()
    const step = (name: string, work: () => Promise<string>): Promise<boolean> =>
      report.step(name, work, { diagnosis: () => stack.diagnosis() })
    try {
      await step('each service sees its own secrets', () => secretsSeen(stack))
      await step('the app is no superuser', () => rightsOfTheApp(stack))
      await load.start(stack.url)
      await step('scale to five', async () => {
        const before = load.failures.length
        await stack.run(scaleTo(5), images.first)
        await until(async () => (await instancesSeen(stack.url)).size === 5, {
          timeout: 90_000,
          message: 'five instances answer'
        })
        return lost(load, before)
      })
      await step('kill a container', async () => {
        const before = load.failures.length
        const [victim] = await stack.containers('app')
        await docker('kill', String(victim))
        await until(async () => (await instancesSeen(stack.url)).size === 4, {
          timeout: 60_000,
          message: 'four instances answer'
        })
        // Or the next `up` would start it again as one of the fleet.
        await docker('rm', String(victim))
        // Three visitors have at most one request each in flight.
        return lost(load, before, 3)
      })
      await step('roll the image', () => roll(stack, images, load))
      await load.stop()
      await step('nothing that was acknowledged is lost', async () => {
        const count = await psql(stack, "SELECT count(*) FROM posts WHERE body LIKE 'load %'")
        if (Number(count) < load.posts.length)
          throw new Error(`${load.posts.length} posts acknowledged, ${count} kept`)
        return `${load.posts.length} posts acknowledged, ${count} in the database`
      })
    } finally {
      await load.stop()
    }
    await badInputSteps(report, images, stack)
  })
}

/** The other shapes of the stack: each comes up, serves and goes. */
export async function variantSteps(report: Report, images: Images): Promise<void> {
  await withStack(report, images, ['compose.haproxy.yaml'], async (stack) => {
    await report.step('HAProxy may ask an instance how busy it is', async () => {
      const script = "require('net').connect(8082, '127.0.0.1').pipe(process.stdout)"
      const answer = await stack.exec('app', 'node', '-e', script)
      if (!/^ready up \d+%$/.test(answer)) throw new Error(`the agent's answer is "${answer}"`)
      return answer
    })
  })
  await withStack(report, images, ['compose.sentinel.yaml'], async () => undefined)
  await withStack(report, images, ['compose.cluster.yaml'], async () => undefined)
}

function scaleTo(instances: number): string[] {
  return ['up', '-d', '--no-build', '--no-deps', '--no-recreate', '--scale', `app=${instances}`, 'app']
}

/** As docker/README.md shows it: the new ones first, then the old ones one by one. */
async function roll(stack: ComposeStack, images: Images, load: Load): Promise<string> {
  const before = load.failures.length
  const old = await stack.containers('app')
  await stack.run(scaleTo(old.length + 3), images.next)
  await until(async () => (await instancesSeen(stack.url)).size >= old.length + 3, {
    timeout: 180_000,
    message: 'the new instances answer'
  })
  for (const container of old) await docker('stop', '--time', '30', container)
  await until(
    async () => {
      const seen = await instancesSeen(stack.url, images.next)
      return seen.size === 3
    },
    { timeout: 30_000, message: 'only the new version answers' }
  )
  return lost(load, before)
}

function psql(stack: ComposeStack, sql: string): Promise<string> {
  return stack.exec('postgres-primary', 'psql', '-U', 'app', '-d', 'app', '-Atc', sql)
}

async function secretsSeen(stack: ComposeStack): Promise<string> {
  for (const [service, files] of Object.entries(SECRETS)) {
    const script =
      'cd /run/flotilla 2>/dev/null || exit 0; for f in *; do cat "$f" >/dev/null && echo "$f"; done'
    const seen = (await stack.exec(service, 'sh', '-c', script)).split('\n').join(' ')
    if (seen !== files) throw new Error(`${service} reads "${seen}" and not "${files}"`)
  }
  const environments = await docker(
    'inspect',
    '--format',
    '{{json .Config.Env}}',
    ...(await stack.containers())
  )
  if (/:\/\/[^"]*:[^"]*@|PASSWORD=/.test(environments)) throw new Error('a secret is in an environment')
  return 'each reads its own, none has one in its environment'
}

async function rightsOfTheApp(stack: ComposeStack): Promise<string> {
  const rights = await psql(
    stack,
    "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = 'app'"
  )
  if (rights !== 'f|f|f|f|f') throw new Error(`the role app has rights of a superuser: ${rights}`)
  return 'it owns its database and no more'
}
