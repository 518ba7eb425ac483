import type { FleetBus } from '@flotilla/redis'
import type { FastifyBaseLogger } from 'fastify'
import { channels } from '../diagnostics.js'

/** Tells the fleet: sockets of a revoked session close, copies of a changed one are dropped. */
export interface Announcer {
  /**
   * Never rejects: the session is over whether or not the others hear of it at once.
   * @param again it was over already: only the fleet is told, once more
   */
  revoked(refs: readonly string[], userId: string | undefined, again?: boolean): Promise<void>
  changed(ref: string): Promise<void>
}

/** Topic of revocations: `{ refs: string[], userId?: string }`. */
export const REVOKED = 'session.revoked'
/** Topic of changes, published where `local` is on: `{ refs: string[] }`. */
export const CHANGED = 'session.changed'

export function createAnnouncer(
  bus: FleetBus,
  log: FastifyBaseLogger,
  { local, scope }: { local: boolean; scope: string }
): Announcer {
  // For the sockets of this app: a revocation in another app's sessions is none of theirs.
  bus.useScope(REVOKED, scope)
  const publish = async (topic: string, payload: object): Promise<void> => {
    try {
      await bus.publish(topic, payload, { scope })
    } catch (err) {
      log.error(
        { err, topic },
        'the fleet could not be told about a session; copies in memory live out their maxAge'
      )
    }
  }
  return {
    async revoked(refs, userId, again = false) {
      if (refs.length === 0) return
      if (!again) channels.revoked.publish(userId === undefined ? { refs } : { refs, userId })
      await publish(REVOKED, userId === undefined ? { refs } : { refs, userId })
    },
    async changed(ref) {
      if (local) await publish(CHANGED, { refs: [ref] })
    }
  }
}
