import type { HealthState } from '@flotilla/core'
import type { AgentStatus } from '../agent-reply.js'

const STATES: readonly HealthState[] = ['starting', 'ready', 'degraded', 'draining', 'down']
const FIELDS = 5
const enum Field {
  Beat,
  State,
  Maintenance,
  Overloaded,
  Utilization
}

/** Milliseconds of a clock that all threads of the process share and nobody sets. */
function now(): number {
  return Math.floor(Number(process.hrtime.bigint() / 1_000_000n) % 2 ** 31)
}

/**
 * The state as one thread writes and another reads it, in shared memory: a blocked main loop cannot answer
 * a message, but what it wrote last, and when, can be read.
 */
export class SharedStatus {
  readonly buffer: SharedArrayBuffer
  private readonly cells: Int32Array

  constructor(buffer = new SharedArrayBuffer(FIELDS * Int32Array.BYTES_PER_ELEMENT)) {
    this.buffer = buffer
    this.cells = new Int32Array(buffer)
  }

  write(status: AgentStatus): void {
    this.set(Field.State, STATES.indexOf(status.state))
    this.set(Field.Maintenance, Number(status.maintenance))
    this.set(Field.Overloaded, Number(status.overloaded))
    this.set(Field.Utilization, Math.round(status.utilization * 1000))
  }

  /** Says that the main loop turns. */
  beat(): void {
    this.set(Field.Beat, now())
  }

  read(): AgentStatus {
    return {
      state: STATES[this.get(Field.State)] ?? 'starting',
      maintenance: this.get(Field.Maintenance) === 1,
      overloaded: this.get(Field.Overloaded) === 1,
      utilization: this.get(Field.Utilization) / 1000
    }
  }

  /** Milliseconds since the main loop last turned. */
  get silence(): number {
    // The beat first: one that comes between the two would lie in the future.
    const beat = this.get(Field.Beat)
    return (now() - beat + 2 ** 31) % 2 ** 31
  }

  private set(field: Field, value: number): void {
    Atomics.store(this.cells, field, value)
  }

  private get(field: Field): number {
    return Atomics.load(this.cells, field)
  }
}
