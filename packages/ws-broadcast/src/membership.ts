import type { FleetBus } from '@flotilla/redis'
import { isChannelName } from './channel-rules.js'
import type { Commands } from './commands.js'
import { readFilter, type ConnectionFilter, type Connections } from './connections.js'

const TOPIC = 'ws.membership'

/** Which way a connection goes. */
export type Move = 'enter' | 'leave'

/** Puts connections into channels and takes them out, on every instance: here at once, elsewhere over the bus. */
export class Membership {
  readonly #bus: FleetBus
  readonly #connections: Connections
  readonly #commands: Commands
  readonly #scope: string
  readonly #stop: () => void

  /** @param scope the key prefix: another app's users have the same ids */
  constructor(bus: FleetBus, connections: Connections, commands: Commands, scope: string) {
    this.#bus = bus
    this.#connections = connections
    this.#commands = commands
    this.#scope = scope
    this.#stop = bus.subscribe(
      TOPIC,
      (payload, { from }) => {
        if (from !== bus.instance) this.#onMessage(payload)
      },
      { scope }
    )
  }

  /** Resolves when it is done here and the bus has the message; rejects if Redis did not take that. */
  async move(move: Move, filter: ConnectionFilter, channel: string): Promise<void> {
    await Promise.all([
      this.#apply(move, filter, channel),
      this.#bus.publish(TOPIC, { move, filter, channel }, { scope: this.#scope })
    ])
  }

  close(): void {
    this.#stop()
  }

  #onMessage(payload: unknown): void {
    const { move, channel, filter: input } = Object(payload) as Record<string, unknown>
    const filter = readFilter(input)
    // Anything else is of another version.
    if (filter && isChannelName(channel) && (move === 'enter' || move === 'leave')) {
      void this.#apply(move, filter, channel)
    }
  }

  async #apply(move: Move, filter: ConnectionFilter, channel: string): Promise<void> {
    const connections = [...this.#connections.matching(filter)]
    await Promise.all(connections.map((connection) => this.#commands.move(move, connection, channel)))
  }
}
