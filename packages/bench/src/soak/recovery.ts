import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { SoakFleet } from './fleet.js'
import type { Ledger } from './ledger.js'

/** A fleet that is not whole again this long after a fault was mended has not recovered, in milliseconds. */
export const RECOVERY = 3_000
/** How long one request of the round may take, in milliseconds. */
const PATIENCE = 1_000

/**
 * Waits until the fleet is whole: each instance, asked directly, and the balancer, asked once for each of them, writes and
 * reads the database, and publishes and logs in with a replica of Redis behind it.
 *
 * @returns whether that came within {@link RECOVERY}
 */
export async function recovered(
  { url, apps }: Pick<SoakFleet, 'url' | 'apps'>,
  ledger: Ledger
): Promise<boolean> {
  const deadline = ledger.now() + RECOVERY
  const doors = [...apps.instances.map((instance) => instance.url), ...apps.instances.map(() => url)]
  for (;;) {
    const whole = await Promise.all(doors.map((door) => serves(door)))
    if (whole.every(Boolean)) return true
    if (ledger.now() > deadline) return false
    await sleep(50)
  }
}

async function serves(door: string): Promise<boolean> {
  // Lanes of their own: each entry is the first and only one of its lane.
  const lane = `whole-${randomUUID()}`
  const round: [method: string, path: string, body?: object][] = [
    ['POST', '/entries', { lane, n: 1 }],
    ['GET', `/entries?lane=${lane}`],
    ['POST', '/login', { user: lane }],
    ['GET', `/cold/${lane}`]
  ]
  const answers = await Promise.all(
    round.map(async ([method, path, body]) => {
      try {
        const response = await fetch(door + path, {
          method,
          signal: AbortSignal.timeout(PATIENCE),
          ...(body && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } })
        })
        await response.arrayBuffer()
        return response.ok
      } catch {
        return false
      }
    })
  )
  return answers.every(Boolean)
}
