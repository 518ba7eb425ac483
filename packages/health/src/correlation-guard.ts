import type { Check } from './check.js'

/** What another instance said in its last heartbeat. */
export interface PeerReport {
  id: string
  /** Names of the shared checks that fail there. */
  failing: readonly string[]
}

/**
 * Tells a dependency that is down for everybody from a path to it that is broken here only. Taking an
 * instance out of rotation helps in the second case and turns an outage into a blackout in the first, so an
 * instance steps out only on evidence: most of the others report the dependency as working, and have gone
 * on doing so for long enough to have noticed otherwise.
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
    if (this.heartbeat === 0 || this.peers.length === 0) return false
    if (now - this.readAt > 2.5 * this.heartbeat) return false
    const noticed = 2 * check.interval + check.timeout + 2 * this.heartbeat
    if (now - check.changedAt < noticed) return false
    const same = this.peers.filter((peer) => peer.failing.includes(check.name)).length
    return same * 2 < this.peers.length
  }
}
