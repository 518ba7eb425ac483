import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { withFileLock } from '../file-lock.js'
import { freePort } from '../ports.js'
import { temporaryFolder } from '../reaper.js'
import { until } from '../until.js'
import { command, docker, dockerCleanup, interrupted, listed } from './engine.js'
import type { Images } from './images.js'
import type { Report } from './report.js'
import { instancesSeen, Load, lost, Visitor } from './visitor.js'

const stack = `flotilla-check-${process.pid}`
const service = `${stack}_app`
const namespace = `label=com.docker.stack.namespace=${stack}`
const hex = (): string => randomBytes(16).toString('hex')

/** The secrets that docker/stack.yaml and stack.local.yaml name. */
function secrets(): Record<string, string> {
  const redis = hex()
  const app = hex()
  return {
    session_secret: hex() + hex(),
    redis_url: `redis://:${redis}@redis:6379/0`,
    'redis.conf': `requirepass ${redis}`,
    database_url: `postgres://app:${app}@postgres:5432/app`,
    // No replica here. A secret cannot be empty; the app trims it.
    database_replica_url: '\n',
    postgres_password: hex(),
    app_password: app
  }
}

/**
 * Deploys the Swarm stack, scales it, rolls it, and takes everything away again. An engine's Swarm is on or off as a
 * whole: of two checks on this machine one waits for the other.
 */
export async function swarmSteps(report: Report, images: Images): Promise<void> {
  const lock = join(tmpdir(), 'flotilla-docker-check-swarm.lock')
  await withFileLock(lock, () => deployAndRoll(report, images), interrupted).catch((error: unknown) => {
    if (error !== interrupted.reason) throw error
  })
}

async function deployAndRoll(report: Report, images: Images): Promise<void> {
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const load = new Load()
  const made: string[] = []
  const inactive = (await docker('info', '--format', '{{.Swarm.LocalNodeState}}')) === 'inactive'
  const networks = new Set(await listed('network', 'ls', '--format', '{{.Name}}'))
  const values = secrets()
  const names = join(temporaryFolder('swarm'), 'names.yaml')
  await writeFile(names, ownNames(Object.keys(values)))
  const step = (name: string, work: () => Promise<string>): Promise<boolean> =>
    report.step(`Swarm: ${name}`, work, { diagnosis })
  /** What `work` saw, and how many requests failed meanwhile. */
  const underLoad = (name: string, work: () => Promise<string | undefined>): Promise<boolean> =>
    step(name, async () => {
      const before = load.failures.length
      const seen = await work()
      return [lost(load, before), seen].filter(Boolean).join('; ')
    })
  const fiveAnswer = (version?: string): Promise<unknown> =>
    until(async () => (await instancesSeen(url, version)).size === 5, {
      timeout: 120_000,
      message: version === undefined ? 'five instances answer' : `five of ${version} answer, and no other`
    })
  try {
    await step('a missing secret is named', async () => {
      if (inactive) await docker('swarm', 'init', '--advertise-addr', '127.0.0.1')
      const said = await deploy(images.first, port, names).then(
        () => 'nothing',
        (error: unknown) => String(error)
      )
      const reason = /secret not found: \S+/.exec(said)?.[0]
      if (reason === undefined) throw new Error(`the secret is not named: ${said}`)
      return reason
    })
    const deployed = await step('deploy', async () => {
      for (const [name, value] of Object.entries(values)) {
        // On standard input: an argument could be read by everybody.
        await command('sh', ['-c', 'printf "%s" "$SECRET" | docker secret create "$0" -', ownName(name)], {
          env: { SECRET: value }
        })
        made.push(ownName(name))
      }
      await deploy(images.first, port, names)
      const visitor = new Visitor(url)
      await until(async () => (await visitor.ask('GET', '/health/ready')).status === 200, {
        timeout: 150_000,
        interval: 100,
        message: 'the stack answers'
      })
      await until(async () => (await instancesSeen(url)).size === 3, {
        timeout: 90_000,
        message: 'three instances answer'
      })
      return `three instances behind ${url}`
    })
    if (!deployed) return
    await load.start(url)
    await underLoad('scale to five', async () => {
      await docker('service', 'scale', '--detach', `${service}=5`)
      await fiveAnswer()
      return undefined
    })
    await underLoad('rolling update', async () => {
      const state = await update(images, images.next)
      if (!state.startsWith('completed')) throw new Error(`the update is ${state}`)
      await fiveAnswer(images.next)
      return undefined
    })
    await underLoad('an image that does not start is rolled back', async () => {
      const state = await update(images, images.broken)
      if (!state.startsWith('rollback_completed')) throw new Error(`the update is ${state}`)
      const failed = await listed('service', 'ps', '--no-trunc', '--format', '{{.Image}} {{.Error}}', service)
      const why = failed.find((line) => line.includes(images.broken) && line.includes('non-zero exit'))
      if (why === undefined) throw new Error('no task says that it failed')
      await fiveAnswer(images.next)
      return why.split(' ').slice(1).join(' ')
    })
  } finally {
    await load.stop()
    await report.step('Swarm: remove', () => remove(made, inactive, networks), { cleans: true })
  }
}

/** Secrets belong to the whole Swarm, so this run's have names of their own. */
function ownName(secret: string): string {
  return `${stack}_${secret}`
}

/** Laid over docker/stack.yaml: where it finds the secrets that it names. */
function ownNames(names: readonly string[]): string {
  const entries = names.map((name) => [name, { external: true, name: ownName(name) }])
  return JSON.stringify({ version: '3.8', secrets: Object.fromEntries(entries) })
}

function deploy(version: string, port: number, names: string): Promise<string> {
  const files = ['-c', 'docker/stack.yaml', '-c', 'docker/stack.local.yaml', '-c', names]
  return command('docker', ['stack', 'deploy', '--resolve-image', 'never', ...files, stack], {
    env: { FLOTILLA_PORT: String(port), APP_IMAGE: `flotilla-demo:${version}` }
  })
}

/** Updates the app to an image and waits until Swarm has done with it, one way or the other. */
async function update(images: Images, version: string): Promise<string> {
  await docker(
    ...'service update --detach --no-resolve-image --update-delay 1s --update-monitor 5s --quiet'.split(' '),
    '--image',
    `${images.name}:${version}`,
    '--env-add',
    `APP_VERSION=${version}`,
    service
  )
  return until(
    async () => {
      const format = '{{.UpdateStatus.State}} {{.UpdateStatus.Message}}'
      const now = await docker('service', 'inspect', '--format', format, service)
      return /^(updating|rollback_started) /.test(now) ? undefined : now
    },
    { timeout: 240_000, interval: 200, message: 'the update has ended' }
  )
}

/** How each task stands, and the end of what the app wrote. */
async function diagnosis(): Promise<string> {
  const format = '{{.Name}}: {{.CurrentState}} {{.Error}}'
  const tasks = await docker('stack', 'ps', '--no-trunc', '--format', format, stack)
  const logs = await command('sh', ['-c', 'timeout 20 docker service logs --tail 5 "$0" 2>&1', service])
  return `${tasks}\n${logs}`
}

async function remove(made: readonly string[], inactive: boolean, networks: Set<string>): Promise<string> {
  await dockerCleanup('stack', 'rm', stack).catch(() => '')
  const gone = async (...list: string[]): Promise<boolean> =>
    (await listed(...list, '--filter', namespace)).length === 0
  await until(
    async () => (await gone('ps', '--all', '--quiet')) && (await gone('network', 'ls', '--quiet')),
    {
      timeout: 90_000,
      interval: 200,
      message: 'every task and network is gone'
    }
  )
  for (const name of made) await dockerCleanup('secret', 'rm', name)
  for (const volume of await listed('volume', 'ls', '--quiet', '--filter', namespace))
    await dockerCleanup('volume', 'rm', '--force', volume)
  if (!inactive) return 'no task, secret, network or volume left'
  await dockerCleanup('swarm', 'leave', '--force')
  // Made by the engine for Swarm.
  for (const network of ['docker_gwbridge', 'ingress']) {
    const there = (await listed('network', 'ls', '--quiet', '--filter', `name=^${network}$`)).length > 0
    if (there && !networks.has(network)) await dockerCleanup('network', 'rm', network)
  }
  return 'no task, secret, network or volume left; Swarm is off again'
}
