import { PostgresReplica } from './postgres-replica.js'
import { PostgresServer, type ServerOptions } from './postgres-server.js'

export interface PostgresOptions extends ServerOptions {
  /** Streaming replicas; default 1. */
  replicas?: number
}

/** A primary and its replicas. */
export class PostgresGroup {
  constructor(
    readonly primary: PostgresServer,
    readonly replicas: PostgresReplica[],
    private readonly options: ServerOptions
  ) {}

  /** Waits until every replica shows what the primary has committed up to now. */
  async waitForCatchUp(timeout?: number): Promise<void> {
    await Promise.all(this.replicas.map((replica) => replica.waitForCatchUp(timeout)))
  }

  /** Starts one more replica, which follows from the beginning. */
  async addReplica(): Promise<PostgresReplica> {
    const replica = await PostgresReplica.startReplica(this.primary, this.options)
    this.replicas.push(replica)
    await replica.waitForStreaming()
    return replica
  }

  async stop(): Promise<void> {
    await Promise.all([...this.replicas, this.primary].map((server) => server.stop()))
  }
}

/**
 * Starts a PostgreSQL primary with streaming replicas, each on a loopback port of its own.
 * As root the servers run as the user nobody.
 */
export async function startPostgres(options: PostgresOptions = {}): Promise<PostgresGroup> {
  const { replicas = 1, ...server } = options
  const primary = await PostgresServer.startPrimary(server)
  const group = new PostgresGroup(primary, [], server)
  try {
    const started = await Promise.allSettled(
      Array.from({ length: replicas }, () => PostgresReplica.startReplica(primary, server))
    )
    for (const one of started) if (one.status === 'fulfilled') group.replicas.push(one.value)
    for (const one of started) if (one.status === 'rejected') throw one.reason
    await Promise.all(group.replicas.map((replica) => replica.waitForStreaming()))
    await group.waitForCatchUp()
  } catch (error) {
    await group.stop()
    throw error
  }
  return group
}
