import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { watchChannels } from '@flotilla/core'
import { SECONDS, Series, type Families, type Labels } from './metric.js'

/** Fields that are labels when they hold short words; anything else (ids, keys, users) must not become one. */
const LABELS: ReadonlySet<string> = new Set([
  'action',
  'cause',
  'code',
  'direction',
  'event',
  'kind',
  'layer',
  'level',
  'mode',
  'name',
  'ns',
  'op',
  'operation',
  'outcome',
  'phase',
  'policy',
  'reason',
  'result',
  'role',
  'route',
  'scope',
  'server',
  'source',
  'state',
  'status',
  'store',
  'target',
  'topic',
  'topology',
  'transport',
  'type'
])
/** How the name of a field in milliseconds ends. */
const MILLISECONDS = 'Ms'
/** Fields that add up. Other numbers are shown as they last were. */
const SUMS: ReadonlySet<string> = new Set([
  'bytes',
  'count',
  'delivered',
  'dropped',
  'fields',
  'keys',
  'messages',
  'removed',
  'resent',
  'sent',
  'size',
  'sockets',
  'tags'
])
const WORD = /^[\w.:*/-]{1,64}$/
/** Label combinations of one channel; later ones are counted together. */
const MAX_SERIES = 200

/** What one channel has said under one set of labels. */
class Tally {
  count = 0
  readonly sums = new Map<string, number>()
  readonly last = new Map<string, number>()
  readonly durations = new Map<string, Series>()

  constructor(readonly labels: Labels) {}

  add(message: Record<string, unknown>): void {
    this.count++
    for (const field in message) {
      const value = message[field]
      if (typeof value !== 'number' || !Number.isFinite(value)) continue
      if (field.endsWith(MILLISECONDS)) {
        let series = this.durations.get(field)
        if (series === undefined) this.durations.set(field, (series = new Series(this.labels, SECONDS)))
        series.observe(value / 1000)
      } else if (SUMS.has(field)) this.sums.set(field, (this.sums.get(field) ?? 0) + value)
      else if (!LABELS.has(field)) this.last.set(field, value)
    }
  }
}

/**
 * Turns every `flotilla:<pkg>:<event>` channel of the process into metrics, without knowing any of them:
 * `flotilla_<pkg>_<event>_total`, a histogram in seconds for fields in milliseconds (`durationMs`), a sum for counts
 * and bytes, a gauge for other numbers. Returns what ends it.
 */
export function measureChannels(families: Families, instance: string): () => void {
  const undo: (() => void)[] = []
  const stop = watchChannels((name) => {
    const channel = new ChannelMetrics(families, metricName(name), instance)
    const hear = (message: unknown): void => channel.hear(message)
    subscribe(name, hear)
    undo.push(() => unsubscribe(name, hear))
  })
  return () => {
    stop()
    for (const one of undo) one()
  }
}

class ChannelMetrics {
  private readonly tallies = new Map<string, Tally>()

  constructor(
    private readonly families: Families,
    private readonly prefix: string,
    private readonly instance: string
  ) {
    this.family(`${prefix}_total`, 'counter', function* (tally) {
      yield { labels: tally.labels, value: tally.count }
    })
  }

  hear(message: unknown): void {
    if (typeof message !== 'object' || message === null) return
    const fields = message as Record<string, unknown>
    const tally = this.tallyOf(fields)
    const known = tally.sums.size + tally.last.size + tally.durations.size
    tally.add(fields)
    if (known !== tally.sums.size + tally.last.size + tally.durations.size) this.expose(tally)
  }

  private tallyOf(fields: Record<string, unknown>): Tally {
    let key = ''
    for (const field in fields)
      if (isLabel(field, fields[field])) key += `${field}=${labelOf(field, fields[field])}\n`
    let tally = this.tallies.get(key)
    if (tally !== undefined) return tally
    const overflow = this.tallies.size >= MAX_SERIES
    const labels: Labels = { instance: this.instance }
    for (const field in fields) {
      if (isLabel(field, fields[field]))
        labels[snake(field)] = overflow ? 'other' : labelOf(field, fields[field])
    }
    if (overflow) key = Object.keys(labels).join('\n')
    tally = this.tallies.get(key) ?? new Tally(labels)
    this.tallies.set(key, tally)
    return tally
  }

  private expose(tally: Tally): void {
    for (const field of tally.sums.keys()) {
      this.family(`${this.prefix}_${snake(field)}_total`, 'counter', function* ({ labels, sums }) {
        if (sums.has(field)) yield { labels, value: sums.get(field)! }
      })
    }
    for (const field of tally.last.keys()) {
      this.family(`${this.prefix}_${snake(field)}`, 'gauge', function* ({ labels, last }) {
        if (last.has(field)) yield { labels, value: last.get(field)! }
      })
    }
    for (const field of tally.durations.keys()) {
      const name = `${this.prefix}_${snake(field).replace(/_ms$/, '')}_seconds`
      this.family(name, 'histogram', ({ durations }) => durations.get(field)?.values(name) ?? [])
    }
  }

  private family(
    name: string,
    type: 'counter' | 'gauge' | 'histogram',
    read: (tally: Tally) => Iterable<{ labels: Labels; value: number; metricName?: string }>
  ): void {
    const { tallies } = this
    this.families.add({
      name,
      type,
      help: `From the channel ${this.prefix.replaceAll('_', ':')}`,
      *values() {
        for (const tally of tallies.values()) yield* read(tally)
      }
    })
  }
}

function isLabel(field: string, value: unknown): boolean {
  if (typeof value === 'boolean') return true
  if (field === 'error') return value !== undefined
  if (!LABELS.has(field)) return false
  return (typeof value === 'string' && WORD.test(value)) || Number.isSafeInteger(value)
}

/** An error becomes whether there was one. */
function labelOf(field: string, value: unknown): string {
  return field === 'error' ? 'true' : String(value)
}

/** `flotilla:ws-broadcast:slowSocket` → `flotilla_ws_broadcast_slow_socket`. */
function metricName(channel: string): string {
  return channel.split(':').map(snake).join('_')
}

function snake(name: string): string {
  return name
    .replace(/([a-z0-9])([A-Z])/g, '$1_$2')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '_')
}
