import type { RouterClient } from './router-client.js'
import type { Server } from './server.js'

/** What happens to a connection, by the names that `pg.Pool` emits it under. */
export type ConnectionEvent = 'connect' | 'acquire' | 'release' | 'remove' | 'error'

/** Gets the events of every server's connections. */
export interface ConnectionListener {
  onConnection(event: ConnectionEvent, server: Server, client: RouterClient, error: Error | undefined): void
}

/**
 * Passes on what happens to the connections of all servers. It holds its listeners weakly: the pool of a request goes with its
 * request, whether or not a library took its listener off.
 */
export class ConnectionEvents {
  readonly #listeners = new Set<WeakRef<ConnectionListener>>()

  /** @param listener must be kept alive by the one that it listens for */
  add(listener: ConnectionListener): void {
    this.#listeners.add(new WeakRef(listener))
  }

  emit(event: ConnectionEvent, server: Server, client: RouterClient, error?: Error): void {
    // Most apps have none, and this runs twice for each statement.
    if (this.#listeners.size === 0) return
    for (const reference of this.#listeners) {
      const listener = reference.deref()
      if (listener) listener.onConnection(event, server, client, error)
      else this.#listeners.delete(reference)
    }
  }
}
