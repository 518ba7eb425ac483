import type { FastifyRequest } from 'fastify'
import { FLOTILLA_WS_ERR_CHANNEL_NAME, FLOTILLA_WS_ERR_UNKNOWN_CHANNEL } from './errors.js'

/** What happens to a socket that reads slower than its channel speaks. */
export type BackpressurePolicy = 'resync' | 'drop' | 'conflate' | 'disconnect'

/** The settings of the channels that one name or pattern covers, checked and complete. */
export interface ChannelRule {
  readonly pattern: string
  /** Milliseconds and entries; undefined: nothing is kept. */
  readonly history: { readonly size: number; readonly ttl: number } | undefined
  /** What to tell the others about a member; undefined: no presence. */
  readonly presence: ((request: FastifyRequest) => unknown) | undefined
  /** Whether clients may publish, if `authorize` agrees. */
  readonly clientPublish: boolean
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
  const patterns: { rule: ChannelRule; test: RegExp }[] = []
  for (const rule of rules) {
    if (rule.pattern.includes('*')) patterns.push({ rule, test: patternToRegExp(rule.pattern) })
    else exact.set(rule.pattern, rule)
  }
  patterns.sort((a, b) => b.rule.pattern.length - a.rule.pattern.length)
  const find = (channel: string): ChannelRule | undefined =>
    exact.get(channel) ?? patterns.find(({ test }) => test.test(channel))?.rule
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

/** `*` stands for one or more characters. Everything else is literal. */
function patternToRegExp(pattern: string): RegExp {
  const literal = pattern.split('*').map((part) => part.replaceAll(/[.+?^$()|[\]\\/-]/g, String.raw`\$&`))
  return new RegExp(`^${literal.join('.+')}$`)
}

function show(value: unknown): string {
  return typeof value === 'string' ? `'${value.slice(0, 40)}'` : typeof value
}
