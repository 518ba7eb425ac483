import type { FastifyRequest } from 'fastify'
import { FLOTILLA_WS_ERR_CHANNEL_NAME, FLOTILLA_WS_ERR_UNKNOWN_CHANNEL } from './errors.js'
import type { Identity } from './identity.js'
import type { Schema } from './schema.js'

/** What happens to a socket that reads slower than its channel speaks. */
export type BackpressurePolicy = 'resync' | 'drop' | 'conflate' | 'disconnect'

/** A message that a client asks to publish. */
export interface ClientPublish {
  /** The upgrade request of its connection. */
  readonly request: FastifyRequest
  /** Whose connection it is. */
  readonly identity: Identity
  /** The id of the connection. */
  readonly connection: string
  /** The channel that the message is for. */
  readonly channel: string
  /** What the channel's `schema` made of it. Without one any JSON value: the client chose it. */
  readonly data: unknown
}

/** The settings of the channels that one name or pattern covers, checked and complete. */
export interface ChannelRule {
  readonly pattern: string
  /** Milliseconds and entries; undefined: nothing is kept. */
  readonly history: { readonly size: number; readonly ttl: number } | undefined
  /** What to tell the others about a member; undefined: no presence. */
  readonly presence: ((request: FastifyRequest) => unknown) | undefined
  /** Whether clients may publish, if `authorize` agrees. */
  readonly clientPublish: boolean
  /** Checks the data that clients publish; undefined: any JSON value is taken. */
  readonly schema: Schema | undefined
  /** What the app makes of a message of a client; undefined: it is sent as it came. */
  readonly onPublish: ((publish: ClientPublish) => unknown) | undefined
  readonly backpressure: BackpressurePolicy
  readonly durable: boolean
}

const NAME = /^[^\s{}\p{Cc}]{1,200}$/u

export function isChannelName(value: unknown): value is string {
  return typeof value === 'string' && value.length <= 200 && NAME.test(value)
}

/** Finds a channel's rule: the exact name first, then the longest pattern. */
export interface ChannelRules {
  find(channel: string): ChannelRule | undefined
  /** @throws FLOTILLA_WS_ERR_CHANNEL_NAME, FLOTILLA_WS_ERR_UNKNOWN_CHANNEL */
  get(channel: unknown): ChannelRule
}

export function createChannelRules(rules: readonly ChannelRule[]): ChannelRules {
  const exact = new Map<string, ChannelRule>()
  const patterns: { rule: ChannelRule; test: (channel: string) => boolean }[] = []
  for (const rule of rules) {
    if (rule.pattern.includes('*')) patterns.push({ rule, test: createTest(rule.pattern) })
    else exact.set(rule.pattern, rule)
  }
  patterns.sort((a, b) => b.rule.pattern.length - a.rule.pattern.length)
  const find = (channel: string): ChannelRule | undefined =>
    exact.get(channel) ?? patterns.find(({ test }) => test(channel))?.rule
  return {
    find,
    get(channel) {
      if (!isChannelName(channel)) throw new FLOTILLA_WS_ERR_CHANNEL_NAME(show(channel))
      const rule = find(channel)
      if (!rule) throw new FLOTILLA_WS_ERR_UNKNOWN_CHANNEL(channel)
      return rule
    }
  }
}

/**
 * `*` stands for one or more characters. Everything else is literal. Each part is looked for once, at its first place after the
 * one before: clients choose the names, and a regular expression could be made to go back and forth in one for seconds.
 */
function createTest(pattern: string): (channel: string) => boolean {
  const parts = pattern.split('*')
  const first = parts.shift()!
  const last = parts.pop()!
  return (channel) => {
    if (!channel.startsWith(first)) return false
    let end = first.length
    for (const part of parts) {
      const at = channel.indexOf(part, end + 1)
      if (at === -1) return false
      end = at + part.length
    }
    return channel.length - last.length > end && channel.endsWith(last)
  }
}

function show(value: unknown): string {
  return typeof value === 'string' ? `'${value.slice(0, 40)}'` : typeof value
}
