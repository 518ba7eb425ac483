import type { SoakFleet } from './fleet.js'
import type { Ledger } from './ledger.js'
import { setTimeout as sleep } from 'node:timers/promises'

interface Sample {
  readonly heap: number
  readonly handles: number
  readonly uptime: number
}

/** What one run may leave behind in an instance: room for caches that fill and pools that grow. */
const HEAP_ROOM = 48 * 2 ** 20
const HANDLE_ROOM = 60

/** Memory after a collection and open handles of each instance, at the beginning and after the load has gone. */
export class Vitals {
  #begin: Sample[] = []

  constructor(
    private readonly fleet: SoakFleet,
    private readonly ledger: Ledger
  ) {}

  async baseline(): Promise<void> {
    this.#begin = await this.#samples()
  }

  async verify(): Promise<void> {
    // Connections of the load that has gone are closed by then.
    await sleep(3_000)
    for (const [index, now] of (await this.#samples()).entries()) {
      const then = this.#begin[index]!
      const megabytes = ({ heap }: Sample): string => `${(heap / 2 ** 20).toFixed(1)} MB`
      const seen = `app-${index + 1}: ${megabytes(then)} → ${megabytes(now)}, ${then.handles} → ${now.handles} handles`
      console.log(`  ${seen} (up ${now.uptime.toFixed(0)} s)`)
      this.ledger.check('leak', now.heap < then.heap + HEAP_ROOM, seen)
      this.ledger.check('leak', now.handles < then.handles + HANDLE_ROOM, seen)
    }
  }

  #samples(): Promise<Sample[]> {
    return Promise.all(
      this.fleet.apps.instances.map(
        async ({ url }) => (await (await fetch(`${url}/vitals`)).json()) as Sample
      )
    )
  }
}
