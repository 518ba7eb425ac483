import { until } from '../until.js'
import { docker, listed, logsOf } from './engine.js'
import type { Images } from './images.js'
import type { Report } from './report.js'
import { ComposeStack } from './stack.js'
import { Visitor } from './visitor.js'

/**
 * What a user gets wrong: each time the command or the service's own log says what. `running` is a stack that is up; what is wrong is tried beside it.
 */
export async function badInputSteps(report: Report, images: Images, running: ComposeStack): Promise<void> {
  /** The app as a container of its own in the running stack, with one setting wrong; it must end by itself. */
  const refused = (settings: Record<string, string>, reason: RegExp) => async (): Promise<string> => {
    const env = Object.entries(settings).flatMap(([name, value]) => ['-e', `${name}=${value}`])
    const said = await failureOf(
      running.run(['run', '--rm', '--no-deps', ...env, 'app'], images.first, { timeout: 60_000 })
    )
    return found(said, reason)
  }
  await report.step(
    'bad input: a secret is missing',
    refused(
      { SESSION_SECRET_FILE: '/run/flotilla/absent' },
      /SESSION_SECRET_FILE names \S+, which cannot be read/
    )
  )
  await report.step(
    "bad input: PostgreSQL's password is wrong",
    refused(
      { DATABASE_URL_FILE: '', DATABASE_URL: 'postgres://app:wrong@pgbouncer:6432/app' },
      /(?:SASL|password) authentication failed/
    )
  )
  await report.step(
    "bad input: Redis's password is wrong",
    refused(
      { REDIS_URL_FILE: '', REDIS_URL: 'redis://:wrong@redis:6379/0' },
      /cannot use Redis at redis:6379: wrong user or password/
    )
  )
  await besides(report, images, 'bad input: the port is busy', running.port, async (stack) => {
    const said = await failureOf(stack.run(['up', '-d', '--no-build', '--no-deps', 'balancer'], images.first))
    if (!said.includes('balancer')) throw new Error(`the service is not named:\n${said}`)
    await nothingRuns(stack)
    return found(said, new RegExp(`\\S*:${stack.port}.*(already allocated|in use)`))
  })
  await besides(report, images, 'bad input: a secret that is too short', 0, async (stack) => {
    const put = ['run', '--rm', 'secrets', 'sh', '-c', 'echo short >/secrets/session_secret']
    await stack.run(put, images.first)
    const said = await failureOf(stack.run(['up', '-d', '--no-build'], images.first))
    if (!said.includes('secrets')) throw new Error(`the service is not named:\n${said}`)
    await nothingRuns(stack)
    const logs = await stack.run(['logs', '--no-color', 'secrets'], images.first)
    return found(logs, /session_secret must have at least 32 characters/)
  })
  await besides(report, images, 'bad input: the image does not start', 0, async (stack) => {
    // The engine starts the instances again and again, so that `up` may wait for their health until it is ended.
    await failureOf(stack.run(['up', '-d', '--no-build'], images.broken, { timeout: 60_000 }))
    const instances = await stack.containers('app', { all: true })
    if (instances.length === 0) throw new Error('no instance was made')
    await until(
      async () => {
        const counts = await listed('inspect', '--format', '{{.RestartCount}}', ...instances)
        return counts.every((count) => Number(count) > 5)
      },
      { timeout: 60_000, interval: 100, message: 'the sixth crash is not the last' }
    )
    if ((await stack.containers('balancer')).length > 0) throw new Error('the balancer runs without an app')
    const why = found(await logsOf(String(instances[0])), /cannot start: made so/)
    return `${instances.length} instances: ${why}; started again after each crash, no balancer started`
  })
  await report.step('bad input: every instance has ended', () => everyInstanceEnds(running), {
    diagnosis: () => running.diagnosis()
  })
}

/** Visitors are told at once, the balancer's log says why, and it serves again when they are back. */
async function everyInstanceEnds(stack: ComposeStack): Promise<string> {
  const visitor = new Visitor(stack.url)
  const answers = (...statuses: number[]): Promise<unknown> =>
    until(async () => statuses.includes((await visitor.ask('GET', '/')).status), {
      timeout: 60_000,
      message: `the balancer answers ${statuses.join(' or ')}`
    })
  const instances = await stack.containers('app')
  await docker('kill', ...instances)
  await answers(502, 503)
  const [balancer] = await stack.containers('balancer')
  const said = await until(
    async () => /has no address any more|has no server available/.exec(await logsOf(String(balancer), 500)),
    { timeout: 60_000, message: "the balancer's log says why" }
  )
  await docker('start', ...instances)
  await answers(200)
  return `the balancer answers 502 and says that it ${said[0]}; started again, it serves`
}

/** A second project, which is taken away again. */
async function besides(
  report: Report,
  images: Images,
  name: string,
  port: number,
  work: (stack: ComposeStack) => Promise<string>
): Promise<void> {
  const stack = new ComposeStack(images, ['compose.yaml'], port)
  await report.step(name, () => work(stack), {
    diagnosis: () => stack.diagnosis(),
    after: () => stack.remove()
  })
}

/** What a command said that had to fail. */
async function failureOf(running: Promise<string>): Promise<string> {
  const said = await running.then(
    () => undefined,
    (error: unknown) => (error instanceof Error ? error.message : String(error))
  )
  if (said === undefined) throw new Error('it did not fail')
  if (/did not end within/.test(said)) throw new Error(said)
  return said
}

/** The part that tells the user why. */
function found(said: string, reason: RegExp): string {
  const match = reason.exec(said)
  if (!match) throw new Error(`the reason is not named:\n${said}`)
  return match[0].trim().slice(0, 160)
}

async function nothingRuns(stack: ComposeStack): Promise<void> {
  const ids = await stack.containers()
  if (ids.length > 0) throw new Error(`${ids.length} containers run still`)
}
