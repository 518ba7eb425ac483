import { randomBytes } from 'node:crypto'
import { freePort } from '../ports.js'
import { until } from '../until.js'
import { command, docker } from './engine.js'
import { Load, Visitor } from './visitor.js'

/** Runs one named step of the check. */
export type Step = (name: string, work: () => Promise<string>) => Promise<boolean>

const stack = `flotilla-check`
const hex = (): string => randomBytes(16).toString('hex')

/** The secrets that docker/stack.yaml and stack.local.yaml name. */
function secrets(): Record<string, string> {
  const redis = hex()
  const postgres = hex()
  return {
    session_secret: hex() + hex(),
    redis_url: `redis://:${redis}@redis:6379/0`,
    'redis.conf': `requirepass ${redis}`,
    database_url: `postgres://app:${postgres}@postgres:5432/app`,
    // No replica here. A secret cannot be empty; the app trims it.
    database_replica_url: '\n',
    postgres_password: postgres
  }
}

/** Deploys the Swarm stack, scales it, rolls it, and takes everything away again. */
export async function swarmSteps(step: Step, image: string): Promise<void> {
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const load = new Load()
  const made: string[] = []
  const inactive = (await docker('info', '--format', '{{.Swarm.LocalNodeState}}')) === 'inactive'
  try {
    const deployed = await step('Swarm: deploy', async () => {
      if (inactive) await docker('swarm', 'init', '--advertise-addr', '127.0.0.1')
      for (const [name, value] of Object.entries(secrets())) {
        // On standard input: an argument could be read by everybody.
        await command('sh', ['-c', 'printf "%s" "$SECRET" | docker secret create "$0" -', name], {
          env: { SECRET: value }
        })
        made.push(name)
      }
      const files = ['-c', 'docker/stack.yaml', '-c', 'docker/stack.local.yaml']
      await command('docker', ['stack', 'deploy', '--resolve-image', 'never', ...files, stack], {
        env: { FLOTILLA_PORT: String(port), APP_IMAGE: `${image}:dev` }
      })
      const visitor = new Visitor(url)
      await until(async () => (await visitor.ask('GET', '/health/ready')).status === 200, {
        timeout: 150_000,
        interval: 100,
        message: 'the stack answers'
      }).catch(async (error: unknown) => {
        throw new Error(`${String(error)}\n${await tasks()}`, { cause: error })
      })
      await until(async () => (await seen(url)).size === 3, {
        timeout: 90_000,
        message: 'three instances answer'
      })
      return `three instances behind ${url}`
    })
    if (!deployed) return
    await load.start(url)
    await step('Swarm: scale to five', async () => {
      const before = load.failures.length
      await docker('service', 'scale', '--detach', `${stack}_app=5`)
      await until(async () => (await seen(url)).size === 5, {
        timeout: 120_000,
        message: 'five instances answer'
      })
      return failed(load, before)
    })
    await step('Swarm: rolling update', async () => {
      const before = load.failures.length
      await command(
        'docker',
        [
          `service update --no-resolve-image --update-delay 1s --update-monitor 5s --quiet`.split(' '),
          ['--image', `${image}:next`, '--env-add', 'APP_VERSION=next', `${stack}_app`]
        ].flat(),
        { timeout: 400_000 }
      )
      // The command returns when the last task runs; the update ends when that task's monitoring has.
      const state = await until(
        async () => {
          const now = await docker(
            'service',
            'inspect',
            '--format',
            '{{.UpdateStatus.State}} {{.UpdateStatus.Message}}',
            `${stack}_app`
          )
          return now.startsWith('updating') ? undefined : now
        },
        { timeout: 120_000, interval: 200, message: 'the update has ended' }
      )
      if (!state.startsWith('completed')) throw new Error(`the update is ${state}\n${await tasks()}`)
      await until(async () => (await seen(url, 'next')).size === 5, {
        timeout: 60_000,
        message: 'five instances of the new version answer'
      })
      await load.stop()
      return failed(load, before)
    })
  } finally {
    await load.stop()
    await step('Swarm: remove', async () => {
      await docker('stack', 'rm', stack).catch(() => '')
      await until(
        async () =>
          (await docker('ps', '-aq', '--filter', `label=com.docker.stack.namespace=${stack}`)) === '',
        { timeout: 90_000, interval: 200, message: 'every task is gone' }
      )
      for (const name of made) await docker('secret', 'rm', name)
      await docker('volume', 'rm', '--force', `${stack}_redis`).catch(() => '')
      if (inactive) await docker('swarm', 'leave', '--force')
      return 'no task left'
    })
  }
}

/** The instances that answer; with a version, only those that report it. */
async function seen(url: string, version?: string): Promise<Set<string>> {
  const instances = new Set<string>()
  const visitor = new Visitor(url)
  for (let turn = 0; turn < 40; turn += 1) {
    const answer = await visitor.ask('GET', '/health')
    const right = version === undefined || answer.body.includes(`"version":"${version}"`)
    if (answer.status === 200 && right) instances.add(answer.instance)
  }
  return instances
}

function failed(load: Load, before: number): string {
  const failures = load.failures.slice(before)
  if (failures.length > 0) throw new Error(`${failures.length} requests failed, the first: ${failures[0]}`)
  return `0 of ${load.answered} requests failed`
}

/** Which task stands still, and why. */
function tasks(): Promise<string> {
  return docker('stack', 'ps', '--no-trunc', '--format', '{{.Name}}: {{.CurrentState}} {{.Error}}', stack)
}
