import { request, type Agent, type IncomingMessage } from 'node:http'
import { once } from 'node:events'
import type { Test } from 'tap'
import { startApp, until, type AppInstance } from '@flotilla/testbed'
import type { HealthOptions } from '../src/index.js'

const script = new URL('./apps/instance.ts', import.meta.url)

export async function start(
  t: Test,
  health: HealthOptions,
  env: Record<string, string> = {}
): Promise<AppInstance> {
  const fleet = await startApp({ script, env: { HEALTH: JSON.stringify(health), ...env } })
  t.teardown(() => fleet.stop())
  return fleet.instances[0]!
}

/** How it ended; keeps this process waiting, which the bare promise of a child does not. */
export async function ended(app: AppInstance): Promise<{ code: number | null; signal: string | null }> {
  const { exited } = app
  await until(() => !app.running, { message: 'the app ends' })
  return exited
}

export interface Answer {
  status: number
  body: string
  connection: string | undefined
  reused: boolean
}

export async function ask(url: string, agent?: Agent): Promise<Answer> {
  const asked = request(url, agent ? { agent } : {}).end()
  const [response] = (await once(asked, 'response')) as [IncomingMessage]
  let body = ''
  for await (const chunk of response) body += String(chunk)
  const { connection } = response.headers
  return { status: response.statusCode!, body, connection, reused: asked.reusedSocket }
}
