import { startFleet as start, type Fleet } from '../dist/runner/fleet.js'

export type { Fleet }

/** The demo's fleet behind nginx, for a test of its own. */
export function startFleet(settings: Partial<Parameters<typeof start>[0]> = {}): Promise<Fleet> {
  return start({ balancer: 'nginx', port: 0, redis: 'single', instances: 3, ...settings })
}
