import type { Connections } from './connections.js'
import type { Connection } from './connection.js'
import { CLOSE } from './protocol.js'

export interface DrainSettings {
  /** Over how long the closes are spread, at most. */
  readonly spread: number
  /** How long a peer may take to answer its close. */
  readonly grace: number
}

/** Closes of one instance in a second when it has nothing but its own close to go by. */
const CLOSES_PER_SECOND = 1000

/**
 * Sends every client away in good order: each is told its own delay before it reconnects, and the closes
 * themselves are spread, so that a deploy is no stampede. Who does not answer is ended.
 */
export class Drain {
  #draining = false
  #running: Promise<void> | undefined

  constructor(
    private readonly connections: Connections,
    private readonly settings: DrainSettings
  ) {}

  /** True from the first call of `run` on: no new connections. */
  get draining(): boolean {
    return this.#draining
  }

  /** @param deadline milliseconds of `Date.now()`; without one, the closes take as long as their number asks */
  run(deadline?: number): Promise<void> {
    this.#draining = true
    this.#running ??= this.#run(deadline)
    return this.#running
  }

  /** Tells one its own delay and closes it: in its turn, or as it comes while the others are going. */
  sendAway(connection: Connection): void {
    const { spread, grace } = this.settings
    connection.send({ type: 'reconnect', delay: Math.round(Math.random() * Math.min(spread, 5000)) })
    connection.close(CLOSE.RESTART, 'instance is going away', grace)
  }

  /** Ends whatever is left. */
  terminate(): void {
    for (const connection of this.connections) connection.transport.terminate()
  }

  async #run(deadline: number | undefined): Promise<void> {
    const { spread, grace } = this.settings
    const all = [...this.connections]
    if (all.length === 0) return
    const available =
      deadline === undefined
        ? (all.length / CLOSES_PER_SECOND) * 1000
        : Math.max(0, deadline - Date.now() - grace - 250)
    const window = Math.min(spread, available)
    const end = performance.now() + window
    for (const [index, connection] of all.entries()) {
      const due = end - window * (1 - index / all.length)
      const wait = due - performance.now()
      if (wait > 4) await sleep(wait)
      this.sendAway(connection)
    }
    await this.#gone(grace)
    this.terminate()
  }

  async #gone(grace: number): Promise<void> {
    const deadline = performance.now() + grace
    while (this.connections.size > 0 && performance.now() < deadline) await sleep(10)
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms)
  })
}
