/** Where the topology reports what it sees. */
export interface Log {
  info(details: object, message: string): void
  warn(details: object, message: string): void
  error(details: object, message: string): void
}

/** What the topology waits for and leaves out. */
export interface TopologySettings {
  /** A replica further behind is not read from, in milliseconds. */
  maxLag: number
  /** How long a write waits for a primary, and a read for the timeline of its token, in milliseconds. */
  primaryWait: number
}
