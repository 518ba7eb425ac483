import type { FleetBus } from '@flotilla/redis'
import type { FastifyBaseLogger } from 'fastify'
import { channels } from '../diagnostics.js'
import { CHANGED, REVOKED } from '../store/topics.js'

/** Notifies the fleet: sockets of a revoked session close, copies of a changed one are dropped. Never rejects. */
export class RevocationPublisher {
  readonly #bus: FleetBus | undefined
  readonly #log: FastifyBaseLogger
  readonly #local: boolean
  readonly #scope: string

  /**
   * @param bus `undefined` if there is no fleet
   * @param options.scope of the sessions: those of another app on the same Redis are none of ours
   */
  constructor(
    bus: FleetBus | undefined,
    log: FastifyBaseLogger,
    { local, scope }: { local: boolean; scope: string }
  ) {
    this.#bus = bus
    this.#log = log
    this.#local = local
    this.#scope = scope
    // For the sockets of this app, too.
    bus?.useScope(REVOKED, scope)
  }

  /** @param again they had ended already: only the fleet is notified, once more */
  async revoked(refs: readonly string[], userId: string | undefined, again = false): Promise<void> {
    if (refs.length === 0) return
    const message = userId === undefined ? { refs } : { refs, userId }
    if (!again) channels.revoked.publish(message)
    await this.#publish(REVOKED, message)
  }

  async changed(ref: string): Promise<void> {
    if (this.#local) await this.#publish(CHANGED, { refs: [ref] })
  }

  async #publish(topic: string, payload: object): Promise<void> {
    try {
      await this.#bus?.publish(topic, payload, { scope: this.#scope })
    } catch (err) {
      this.#log.error(
        { err, topic },
        'the fleet could not be notified about a session; copies in memory live until their maxAge'
      )
    }
  }
}
