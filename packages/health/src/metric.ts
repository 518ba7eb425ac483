import type { Metric, Registry } from 'prom-client'

export type Labels = Record<string, string | number>

interface Value {
  labels: Labels
  value: number
  metricName?: string
}

/** One line of figures as prom-client's registry asks for them, read when scraped. */
export interface Family {
  name: string
  help: string
  type: 'counter' | 'gauge' | 'histogram'
  values(): Iterable<Value>
}

/**
 * The families of one app in a registry. Figures are counted by us and only read at a scrape: prom-client's
 * own `observe` costs more than a whole request may. Works with any copy of prom-client, since its registry
 * asks a metric for nothing but `name` and `get()`.
 */
export class Families {
  private readonly names = new Set<string>()

  constructor(private readonly registry: Registry) {}

  /** Does nothing where this app has a family of that name already. */
  add(family: Family): void {
    const { name, help, type } = family
    if (this.names.has(name)) return
    const metric = {
      name,
      help,
      type,
      aggregator: 'sum',
      get: async () => ({ name, help, type, aggregator: 'sum', values: [...family.values()] }),
      reset: () => undefined
    }
    this.registry.registerMetric(metric as unknown as Metric)
    this.names.add(name)
  }

  /** Runs what adds metrics by itself and owns them from then on. */
  adopt(add: () => void): void {
    const before = new Set(this.registry.getMetricsAsArray().map(({ name }) => name))
    add()
    for (const { name } of this.registry.getMetricsAsArray()) if (!before.has(name)) this.names.add(name)
  }

  /** Takes out of the registry what was put in, so that another app may use it. */
  clear(): void {
    for (const name of this.names) this.registry.removeSingleMetric(name)
    this.names.clear()
  }
}

/** Counts observations into buckets; one series of a histogram. */
export class Series {
  private readonly counts: Float64Array
  private sum = 0
  private count = 0

  constructor(
    readonly labels: Labels,
    private readonly bounds: readonly number[]
  ) {
    this.counts = new Float64Array(bounds.length)
  }

  observe(value: number): void {
    this.sum += value
    this.count++
    const { bounds } = this
    for (let at = 0; at < bounds.length; at++) {
      if (value <= bounds[at]!) {
        this.counts[at]!++
        return
      }
    }
  }

  *values(name: string): Generator<Value> {
    let below = 0
    for (const [at, bound] of this.bounds.entries()) {
      below += this.counts[at]!
      yield { metricName: `${name}_bucket`, labels: { le: bound, ...this.labels }, value: below }
    }
    yield { metricName: `${name}_bucket`, labels: { le: '+Inf', ...this.labels }, value: this.count }
    yield { metricName: `${name}_sum`, labels: this.labels, value: this.sum }
    yield { metricName: `${name}_count`, labels: this.labels, value: this.count }
  }
}

/** Seconds, from half a millisecond to ten seconds. */
export const SECONDS: readonly number[] = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10
]
