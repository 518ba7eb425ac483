import type { FastifyBaseLogger } from 'fastify'
import type { Connections } from './connections.js'
import type { BroadcastConfig } from './options.js'
import { CLOSE } from './protocol.js'
import type { UpgradeGate } from './upgrade.js'

/**
 * Asks `authenticate` again for every connection that it has let in, after the bus may have missed a revocation.
 * Without that option there is nobody to ask: what was read from the session at the upgrade is all there is.
 */
export async function revalidate(
  connections: Connections,
  gate: UpgradeGate,
  { authenticate }: BroadcastConfig,
  log: FastifyBaseLogger
): Promise<void> {
  if (!authenticate) return
  for (const connection of connections) {
    const request = connection.request!
    if (!connection.open || !gate.hasLetIn(request)) continue
    try {
      if ((await gate.identify(request)) === null) {
        connection.close(CLOSE.UNAUTHORIZED, 'session ended')
      }
    } catch (err) {
      // Not knowing is no reason to throw everyone out: the next gap asks again.
      log.warn({ err }, 'a connection could not be checked again')
    }
  }
}
