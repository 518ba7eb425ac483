import type { HealthState } from '@flotilla/core'

/** What an instance tells the others with each heartbeat. */
export interface InstanceReport {
  /** The name it shows. */
  instance: string
  /** The app's version. */
  version: string
  /** Where it stands. */
  state: HealthState
  /** Seconds since its process started. */
  uptime: number
  /** Event-loop delay in ms and utilisation 0 to 1, resident memory in bytes, open connections. */
  load: { delay: number; utilization: number; rss: number; connections: number }
  /** Shared checks that fail there. */
  failing: string[]
  /** Shared checks that pass there. */
  passing: string[]
}

/** One live instance of the fleet. `lost`: its lease lapsed and nobody has evicted it yet. */
export interface FleetMember extends Omit<InstanceReport, 'state'> {
  /** Unique in the fleet, and new with each start. */
  id: string
  /** As it said with its last heartbeat. */
  state: HealthState | 'lost'
  /** Milliseconds until its lease ends by Redis' clock; negative when lapsed. */
  lease: number
}

/** The fleet at one moment. */
export interface FleetView {
  /** The name of the fleet. */
  fleet: string
  /** The id of the instance that answers. */
  self: string
  /** True where Redis did not answer and this is what was last known. */
  stale: boolean
  /** Milliseconds since it was read from Redis. */
  age: number
  /** Those that hold a lease, and those whose lease lapsed and that nobody has evicted yet. */
  instances: FleetMember[]
}

/** Members from a script's flat reply of id, end of lease and report; unreadable reports are left out. */
export function readMembers(now: number, flat: readonly string[]): FleetMember[] {
  const members: FleetMember[] = []
  for (let at = 0; at + 2 < flat.length; at += 3) {
    const report = readReport(flat[at + 2]!)
    const lease = Number(flat[at + 1]) - now
    if (report) members.push({ id: flat[at]!, ...report, state: lease > 0 ? report.state : 'lost', lease })
  }
  return members
}

/** What stands in Redis was written by another version of the app, or by somebody else. */
function readReport(text: string): InstanceReport | undefined {
  try {
    const report = JSON.parse(text) as Partial<InstanceReport>
    const { instance, version, state, uptime, load, failing, passing } = report
    if (typeof instance !== 'string' || typeof version !== 'string' || typeof state !== 'string')
      return undefined
    return {
      instance,
      version,
      state,
      uptime: number(uptime),
      load: {
        delay: number(load?.delay),
        utilization: number(load?.utilization),
        rss: number(load?.rss),
        connections: number(load?.connections)
      },
      failing: names(failing),
      passing: names(passing)
    }
  } catch {
    return undefined
  }
}

function names(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((name) => typeof name === 'string') : []
}

function number(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0
}
