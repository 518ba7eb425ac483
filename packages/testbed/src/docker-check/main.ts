import { freePort } from '../ports.js'
import { until } from '../until.js'
import { command, docker, noEngine } from './engine.js'
import { ComposeStack } from './stack.js'
import { swarmSteps } from './swarm.js'
import { Load, Visitor } from './visitor.js'

/*
 * Builds the image and runs docker/ for real: the compose stack is brought up, used, scaled, hurt and rolled while
 * visitors read and write; then the Swarm stack. Prints a table; exits 0 when everything held and 1 otherwise.
 *   node packages/testbed/dist/docker-check/main.js [compose.haproxy.yaml …] [--no-swarm] [--no-build]
 */
const args = process.argv.slice(2)
const overlays = args.filter((arg) => arg.endsWith('.yaml'))
const outcomes: { name: string; held: boolean; detail: string; seconds: number }[] = []

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}

async function step(name: string, work: () => Promise<string>): Promise<boolean> {
  const began = performance.now()
  const [held, detail] = await work().then(
    (text) => [true, text] as const,
    (error: unknown) => [false, error instanceof Error ? error.message : String(error)] as const
  )
  const seconds = (performance.now() - began) / 1_000
  outcomes.push({ name, held, detail, seconds })
  say(`${held ? 'ok    ' : 'FAILED'} ${name.padEnd(34)} ${seconds.toFixed(1).padStart(6)} s  ${detail}`)
  return held
}

const image = 'flotilla-demo'
const absent = [
  'tap',
  'tsx',
  'typescript',
  'esbuild',
  'playwright-core',
  '@flotilla/testbed',
  '@flotilla/bench'
]

async function build(): Promise<string> {
  if (!args.includes('--no-build')) {
    await command('docker', ['build', '-q', '-f', 'docker/Dockerfile', '-t', `${image}:dev`, '.'], {
      timeout: 900_000
    })
    await command('docker', ['build', '-q', '-t', 'flotilla-pgbouncer', 'docker/pgbouncer'], {
      timeout: 600_000
    })
  }
  await docker('tag', `${image}:dev`, `${image}:next`)
  const size = Number(await docker('image', 'inspect', '--format', '{{.Size}}', `${image}:dev`))
  return `${Math.round(size / 1e6)} MB`
}

/** What must not be in the image, looked for in it. */
async function scan(): Promise<string> {
  const names = absent.map((name) => `-path '*/node_modules/${name}'`).join(' -o ')
  const find = `find /app -name .git -o -path /app/src -o -path /app/test -o ${names}; id -u`
  const output = await docker('run', '--rm', '--entrypoint', 'sh', `${image}:dev`, '-c', find)
  if (output !== '1000') throw new Error(`found in the image: ${output.replaceAll('\n', ', ')}`)
  const history = await docker('history', '--no-trunc', '--format', '{{.CreatedBy}}', `${image}:dev`)
  const env = await docker('image', 'inspect', '--format', '{{json .Config.Env}}', `${image}:dev`)
  if (/postgres:\/\/|SESSION_SECRET=|PASSWORD=/.test(history + env))
    throw new Error('a secret is in the image')
  return 'no dev dependency, no sources, no tests, no secret; runs as user 1000'
}

async function instancesSeen(url: string): Promise<Set<string>> {
  const seen = new Set<string>()
  const visitor = new Visitor(url)
  for (let turn = 0; turn < 40; turn += 1) seen.add((await visitor.ask('GET', '/api/me')).instance)
  return seen
}

function lost(load: Load, before: number, allowed = 0): string {
  const failures = load.failures.slice(before)
  if (failures.length > allowed)
    throw new Error(`${failures.length} requests failed, the first: ${failures[0]}`)
  return `${failures.length} of ${load.answered} requests failed`
}

async function composeSteps(): Promise<void> {
  const stack = new ComposeStack(['compose.yaml', ...overlays], await freePort())
  const load = new Load()
  await stack.prepare()
  try {
    const up = await step('compose: up and healthy', async () => {
      await stack.run(['up', '-d', '--no-build'], 'dev', 300_000).catch(async (error: unknown) => {
        throw new Error(`${String(error)}\n${await stack.diagnosis()}`, { cause: error })
      })
      const visitor = new Visitor(stack.url)
      await until(async () => (await visitor.ask('GET', '/health/ready')).status === 200, {
        timeout: 120_000,
        message: 'the stack answers through its published port'
      })
      return `http://127.0.0.1:${stack.port}`
    })
    if (!up) return
    await step('a session and a post on any instance', async () => {
      const visitor = new Visitor(stack.url)
      await visitor.must('POST', '/api/login', { name: 'check' })
      const body = `posted ${Date.now()}`
      await visitor.must('POST', '/api/posts', { body })
      const seen = new Set<string>()
      for (let turn = 0; turn < 30; turn += 1) {
        const me = await visitor.must('GET', '/api/me')
        if (!me.body.includes('"name":"check"')) throw new Error(`${me.instance} does not know the session`)
        const posts = await visitor.must('GET', '/api/posts')
        if (!posts.body.includes(body)) throw new Error(`${posts.instance} does not show the post`)
        seen.add(me.instance)
      }
      if (seen.size !== 3) throw new Error(`${seen.size} instances answered, not 3`)
      return `${seen.size} instances, one session, own writes read`
    })
    await load.start(stack.url)
    await step('scale to five', async () => {
      const before = load.failures.length
      await stack.run(
        ['up', '-d', '--no-build', '--no-deps', '--no-recreate', '--scale', 'app=5', 'app'],
        'dev'
      )
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
    await step('roll the image', async () => {
      const before = load.failures.length
      const old = await stack.containers('app')
      await stack.run(
        ['up', '-d', '--no-build', '--no-deps', '--no-recreate', '--scale', `app=${old.length + 3}`, 'app'],
        'next'
      )
      const visitor = new Visitor(stack.url)
      await until(async () => (await instancesSeen(stack.url)).size >= old.length + 3, {
        timeout: 180_000,
        message: 'the new instances answer'
      })
      for (const container of old) await docker('stop', '--time', '30', container)
      await until(async () => (await visitor.ask('GET', '/health')).body.includes('"next"'), {
        timeout: 30_000,
        message: 'only the new version answers'
      })
      await load.stop()
      return lost(load, before)
    })
    await step('nothing that was acknowledged is lost', async () => {
      const count = await docker(
        'exec',
        String((await stack.containers('postgres-primary'))[0]),
        'psql',
        '-U',
        'app',
        '-d',
        'app',
        '-Atc',
        "SELECT count(*) FROM posts WHERE body LIKE 'load %'"
      )
      if (Number(count) < load.posts.length)
        throw new Error(`${load.posts.length} posts acknowledged, ${count} kept`)
      return `${load.posts.length} posts acknowledged, ${count} in the database`
    })
  } finally {
    await load.stop()
    await step('compose: down', async () => {
      await stack.remove()
      const left = await stack.diagnosis()
      if (left !== '') throw new Error(left)
      return 'no container left'
    })
  }
}

const missing = await noEngine()
if (missing !== undefined) {
  process.stderr.write(`docker:check needs a Docker engine, and none is to be had here: ${missing}\n`)
  process.exit(1)
}
if ((await step('build the images', build)) && (await step('what the image holds', scan))) {
  await composeSteps()
  if (!args.includes('--no-swarm')) await swarmSteps(step, image)
}
const failed = outcomes.filter(({ held }) => !held)
say(
  failed.length === 0
    ? `\nAll ${outcomes.length} held.`
    : `\nDid not hold: ${failed.map(({ name }) => name).join('; ')}`
)
process.exit(failed.length === 0 ? 0 : 1)
