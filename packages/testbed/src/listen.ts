import { subscribe, unsubscribe } from 'node:diagnostics_channel'

/** All that a diagnostics channel says until the test ends. */
export function listen<Message = Record<string, unknown>>(
  t: { teardown(end: () => void): unknown },
  channel: string
): Message[] {
  const heard: Message[] = []
  const hear = (message: unknown): void => void heard.push(message as Message)
  subscribe(channel, hear)
  t.teardown(() => unsubscribe(channel, hear))
  return heard
}
