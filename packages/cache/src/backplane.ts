import type { FleetBus, FleetBusHandler } from '@flotilla/redis'
import type { ConsistencyToken } from '@flotilla/core'

const TOPIC = 'cache.invalidated'

/** What one instance tells the others after Redis has taken it. */
export interface Invalidation {
  /** The namespace of `keys` and `all`; absent for the root. */
  ns?: string
  keys?: readonly string[]
  tags?: readonly (readonly [name: string, mark: number])[]
  /** The namespace was cleared, at this mark. */
  all?: boolean
  mark?: number
  after?: ConsistencyToken
}

/** Names of one message: a list of 10,000 tags is not one message. */
const MAX_NAMES = 1000

/** Carries invalidations over the fleet bus to the memory of every other instance. */
export class Backplane {
  readonly #bus: FleetBus
  readonly #scope: string

  /** @param scope the key prefix: another cache's keys and tags may have the same names */
  constructor(
    bus: FleetBus,
    scope: string,
    handlers: {
      invalidated: (message: Invalidation, from: string) => void
      /** @param recovered false: messages are being missed; true: they flow again */
      gap: (recovered: boolean, reason: string) => void
    }
  ) {
    this.#bus = bus
    this.#scope = scope
    const hear: FleetBusHandler = (payload, { from }) => {
      if (from !== bus.instance && isInvalidation(payload)) handlers.invalidated(payload, from)
    }
    bus.subscribe(TOPIC, hear, { scope })
    bus.onGap((gap) => handlers.gap(gap.recovered, gap.reason))
  }

  get instance(): string {
    return this.#bus.instance
  }

  get connected(): boolean {
    return this.#bus.status().connected
  }

  ready(): Promise<void> {
    return this.#bus.ready()
  }

  async publish(message: Invalidation): Promise<void> {
    const { keys, tags, ...rest } = message
    const many = keys ?? tags
    if (!many || many.length <= MAX_NAMES) return this.#send(message)
    for (let i = 0; i < many.length; i += MAX_NAMES) {
      await this.#send({
        ...rest,
        ...(keys ? { keys: keys.slice(i, i + MAX_NAMES) } : { tags: tags!.slice(i, i + MAX_NAMES) })
      })
    }
  }

  #send(message: Invalidation): Promise<void> {
    return this.#bus.publish(TOPIC, message, { scope: this.#scope })
  }
}

/** Another version of this package, or anyone at all, may be on the bus. */
function isInvalidation(payload: unknown): payload is Invalidation {
  if (typeof payload !== 'object' || payload === null) return false
  const { ns, keys, tags, mark, after } = payload as Record<string, unknown>
  return (
    (ns === undefined || typeof ns === 'string') &&
    (keys === undefined || (Array.isArray(keys) && keys.every((key) => typeof key === 'string'))) &&
    (tags === undefined || (Array.isArray(tags) && tags.every(isTagMark))) &&
    (mark === undefined || typeof mark === 'number') &&
    (after === undefined || typeof after === 'string')
  )
}

function isTagMark(one: unknown): one is [string, number] {
  return Array.isArray(one) && typeof one[0] === 'string' && typeof one[1] === 'number'
}
