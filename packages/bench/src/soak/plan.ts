/** Everything the soak can do to a fleet. */
export const faultNames = [
  'kill-instance',
  'pause-instance',
  'partition-instance',
  'roll-instance',
  'redis-failover',
  'redis-pause',
  'replica-replay-pause',
  'replica-kill',
  'replica-partition',
  'promotion'
] as const

export type FaultName = (typeof faultNames)[number]

export interface PlannedFault {
  /** Milliseconds after the load began. */
  readonly at: number
  readonly fault: FaultName
  /** Which of the instances or replicas, where there are several. */
  readonly target: number
  /** How long it lasts, for faults that end. */
  readonly duration: number
}

/** Nothing is broken this long at the beginning and at the end. */
const CALM = 8_000

/** Numbers from 0 to 1 that depend on the seed alone (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** The whole run's faults, drawn from the seed: the same seed and length give the same plan. */
export function planFaults(seed: number, length: number, instances: number): PlannedFault[] {
  const random = randomFrom(seed)
  const plan: PlannedFault[] = []
  let promoted = false
  for (let at = CALM; at < length - CALM; at += 10_000 + Math.floor(random() * 9_000)) {
    // Not what was just done: a run of some minutes meets everything.
    const used = new Set(plan.slice(-4).map(({ fault }) => fault))
    const choices = faultNames.filter((name) => !used.has(name) && !(promoted && name === 'promotion'))
    const fault = choices[Math.floor(random() * choices.length)]!
    // The old primary stays down, so there is one promotion in a run.
    promoted ||= fault === 'promotion'
    plan.push({
      at,
      fault,
      target: Math.floor(random() * instances),
      duration: 1_500 + Math.floor(random() * 2_500)
    })
  }
  return plan
}
