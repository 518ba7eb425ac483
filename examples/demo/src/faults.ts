import type { Config } from './config.js'

/** Mistakes that are made on purpose with `DEMO_FAULT`, to see that `--check` and the soak find each of them. */
const faults = {
  'memory-sessions': 'sessions live in the process that made them',
  'local-cache': 'each instance has a cache of its own',
  'local-broadcast': 'a message reaches only the sockets of the instance that published it',
  'stale-reads': 'reads go to any replica, however far behind',
  'no-drain': 'SIGTERM ends the process at once'
} as const

export type Fault = keyof typeof faults

/** @throws where the fault is none of those above */
export function faultOf({ fault }: Pick<Config, 'fault'>): Fault | undefined {
  if (fault === '') return undefined
  if (fault in faults) return fault as Fault
  throw new Error(`DEMO_FAULT must be one of ${Object.keys(faults).join(', ')}, not "${fault}"`)
}
