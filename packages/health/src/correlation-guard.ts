import type { Check } from './check.js'

/** What another instance said in its last heartbeat. */
export interface PeerReport {
  id: string
  /** Names of the shared checks that fail there, and of those that pass; of a check that it does not have it says nothing. */
  failing: readonly string[]
  passing: readonly string[]
}

/**
 * Distinguishes a dependency that is down for the whole fleet from a path to it that is broken here only. Leaving rotation
 * helps in the second case. In the first it turns an outage into a blackout, so an instance leaves only on evidence:
 *
 * - Most of the others that have the check report that it passes. Instances without it (another service of the same
 *   fleet, another version) are no evidence.
 * - They have reported so for long enough to notice a failure, and this one for long enough to notice a recovery. Time
 *   after the last report does not count: with the registry down too, nothing is known of it.
 * - This instance has asked the dependency since they began to report so. A check that was last asked during an
 *   outage, because its interval is long or its runs hung, says nothing about the time after it.
 */
export class CorrelationGuard {
  /** By check: `performance.now()` since when most of the others report that it passes. */
  #passingSince = new Map<string, number>()
  #readAt = -Infinity
  readonly #heartbeatMs: number

  /** @param heartbeatMs between two reports, or 0 without a fleet registry */
  constructor(heartbeatMs: number) {
    this.#heartbeatMs = heartbeatMs
  }

  report(peers: readonly PeerReport[]): void {
    const now = performance.now()
    // Nothing is known of a time in which no report came.
    const before = this.#isStale(now) ? new Map<string, number>() : this.#passingSince
    const majority = new Map<string, number>()
    for (const { passing, failing } of peers) {
      for (const name of passing) majority.set(name, (majority.get(name) ?? 0) + 1)
      for (const name of failing) majority.set(name, (majority.get(name) ?? 0) - 1)
    }
    this.#passingSince = new Map()
    for (const [name, votes] of majority) {
      if (votes > 0) this.#passingSince.set(name, before.get(name) ?? now)
    }
    this.#readAt = now
  }

  /** True if the failure of a shared check is this instance's own. */
  alone(check: Check): boolean {
    const now = performance.now()
    if (this.#heartbeatMs === 0 || this.#isStale(now)) return false
    const since = this.#passingSince.get(check.name)
    if (since === undefined || check.askedAt < since) return false
    const noticedMs = 2 * check.interval + check.timeout + 2 * this.#heartbeatMs
    return this.#readAt - Math.max(since, check.changedAt) >= noticedMs
  }

  #isStale(now: number): boolean {
    return now - this.#readAt > 2.5 * this.#heartbeatMs
  }
}
