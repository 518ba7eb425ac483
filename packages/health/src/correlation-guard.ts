import type { Check } from './check.js'

/** What another instance said in its last heartbeat. */
export interface PeerReport {
  id: string
  /** Names of the shared checks that fail there, and of those that pass; of a check that it does not have it says nothing. */
  failing: readonly string[]
  passing: readonly string[]
}

/**
 * Tells a dependency that is down for everybody from a path to it that is broken here only. Taking an
 * instance out of rotation helps in the second case and turns an outage into a blackout in the first, so an
 * instance steps out only on evidence: most of the others that have the check report the dependency as working, and
 * have gone on doing so for long enough to have noticed otherwise. Those that do not have it (another service of
 * the same fleet, another version) are no evidence.
 */
export class CorrelationGuard {
  private peers: readonly PeerReport[] = []
  private readAt = -Infinity

  /** @param heartbeat milliseconds between reports, or 0 where there is no fleet registry */
  constructor(private readonly heartbeat: number) {}

  report(peers: readonly PeerReport[]): void {
    this.peers = peers
    this.readAt = performance.now()
  }

  /** True where the failure of a shared check is this instance's own. */
  alone(check: Check): boolean {
    const now = performance.now()
    if (this.heartbeat === 0) return false
    if (now - this.readAt > 2.5 * this.heartbeat) return false
    const noticed = 2 * check.interval + check.timeout + 2 * this.heartbeat
    if (now - check.changedAt < noticed) return false
    const failing = this.peers.filter((peer) => peer.failing.includes(check.name)).length
    const passing = this.peers.filter((peer) => peer.passing.includes(check.name)).length
    return failing < passing
  }
}
