import type { HealthState } from '@flotilla/core'

/** What the agent-check speaks of. */
export interface AgentStatus {
  state: HealthState
  maintenance: boolean
  overloaded: boolean
  /** Event loop utilisation, 0 to 1. */
  utilization: number
}

/** Below this share of busy time an instance is worth its full weight; above it the weight falls to 10 %. */
const EASY = 0.6

/**
 * One line of HAProxy's agent protocol (configuration manual, `agent-check`). `ready` and `up` come with
 * each good answer, since an earlier `drain` or `maint` stays in force until it is taken back. The share is
 * one of the server's configured weight, in whole numbers: give servers `weight 100`.
 */
export function agentReply({ state, maintenance, overloaded, utilization }: AgentStatus): string {
  if (maintenance) return 'maint\n'
  if (state === 'draining') return 'drain\n'
  if (state === 'starting' || state === 'down') return `down #${state}\n`
  return `ready up ${overloaded ? 1 : weight(utilization)}%\n`
}

function weight(utilization: number): number {
  const busy = Math.min(1, Math.max(0, (utilization - EASY) / (1 - EASY)))
  return Math.round(100 - 90 * busy)
}
