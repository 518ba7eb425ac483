import { channel, type Channel as NodeChannel } from 'node:diagnostics_channel'

/** A `node:diagnostics_channel` that knows whether it has subscribers. */
export interface Channel<Message extends object> {
  /** `flotilla:<pkg>:<event>`. */
  readonly name: string
  /** True while it has subscribers: the way to skip the cost of measuring. */
  readonly active: boolean
  /** Does nothing without a subscriber. */
  publish(message: Message): void
}

// Node cannot list its channels. A registered symbol, so that two copies of this package share one list.
const kNames = Symbol.for('flotilla.channels')
const shared = globalThis as { [kNames]?: Set<string> }
const names = (shared[kNames] ??= new Set<string>())
const created = channel('flotilla:channel')

/**
 * The channel `flotilla:<pkg>:<event>`. Durations in its messages are in milliseconds and end in `Ms` (`durationMs`).
 * On hot paths ask `active` before building a message.
 */
export function createChannel<Message extends object>(pkg: string, event: string): Channel<Message> {
  const name = `flotilla:${pkg}:${event}`
  const target = channel(name)
  if (!names.has(name)) {
    names.add(name)
    created.publish(name)
  }
  return new LazyChannel<Message>(target)
}

/** A class, not a literal: objects that each have a getter of their own are looked up slowly, and hits ask `active`. */
class LazyChannel<Message extends object> implements Channel<Message> {
  readonly #target: NodeChannel

  constructor(target: NodeChannel) {
    this.#target = target
  }

  get name(): string {
    return this.#target.name as string
  }

  get active(): boolean {
    return this.#target.hasSubscribers
  }

  publish(message: Message): void {
    if (this.#target.hasSubscribers) this.#target.publish(message)
  }
}

/**
 * Calls `listener` with the name of each `flotilla:*` channel: those that exist, and later ones as they are
 * created. Returns what ends it.
 */
export function watchChannels(listener: (name: string) => void): () => void {
  const hear = (name: unknown): void => listener(name as string)
  created.subscribe(hear)
  for (const name of names) listener(name)
  return () => created.unsubscribe(hear)
}
