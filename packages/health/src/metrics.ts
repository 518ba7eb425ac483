import type { HealthState } from '@flotilla/core'
import type { FastifyInstance } from 'fastify'
import { collectDefaultMetrics, Registry } from 'prom-client'
import { measureChannels } from './channel-metrics.js'
import type { CheckSet } from './check-set.js'
import type { Connections } from './connections.js'
import { HttpMetrics } from './http-metrics.js'
import type { Load } from './load-monitor.js'
import { Families, type Family, type Labels } from './metric.js'
import type { MetricsSettings } from './options.js'
import type { StatusBoard } from './status-board.js'

/** What the metrics are read from. */
export interface MetricSources {
  instance: string
  version: string
  board: StatusBoard
  checks: CheckSet
  connections: Connections
  load: Load
}

const STATES: readonly HealthState[] = ['starting', 'ready', 'degraded', 'draining', 'down']

/** The app's figures in a prom-client registry. */
export class Metrics {
  readonly registry: Registry
  readonly http: HttpMetrics
  private readonly families: Families
  private readonly stopChannels: () => void

  constructor(fastify: FastifyInstance, settings: MetricsSettings, sources: MetricSources) {
    this.registry = settings.registry ?? new Registry()
    this.families = new Families(this.registry)
    const { instance } = sources
    const collected = this.registry.getSingleMetric('process_cpu_user_seconds_total') !== undefined
    if (settings.defaults && !collected) {
      this.families.adopt(() => collectDefaultMetrics({ register: this.registry, labels: { instance } }))
    }
    this.http = new HttpMetrics(fastify, instance)
    this.families.add(this.http.family)
    for (const family of gauges(sources)) this.families.add(family)
    this.stopChannels = measureChannels(this.families, instance)
  }

  async render(): Promise<{ type: string; body: string }> {
    return { type: this.registry.contentType, body: await this.registry.metrics() }
  }

  close(): void {
    this.stopChannels()
    this.http.close()
    this.families.clear()
  }
}

function gauges({ instance, version, board, checks, connections, load }: MetricSources): Family[] {
  const gauge = (name: string, help: string, read: () => [Labels, number][]): Family => ({
    name,
    help,
    type: 'gauge',
    values: () => read().map(([labels, value]) => ({ labels: { instance, ...labels }, value }))
  })
  const single = (name: string, help: string, read: () => number): Family =>
    gauge(name, help, () => [[{}, read()]])

  return [
    gauge('flotilla_health_info', 'The running version', () => [[{ version }, 1]]),
    gauge('flotilla_health_state', '1 for the state the instance is in', () =>
      STATES.map((state) => [{ state }, Number(board.state === state)])
    ),
    gauge('flotilla_health_check', '1 while a check passes, 0 while it fails', () =>
      Object.entries(checks.snapshot())
        .filter(([, { status }]) => status !== 'pending')
        .map(([check, { status, level, scope }]) => [{ check, level, scope }, Number(status === 'passing')])
    ),
    single('flotilla_http_connections', 'Open HTTP connections', () => connections.open),
    single(
      'flotilla_upgraded_connections',
      'Open WebSockets and other upgraded connections',
      () => connections.upgrades
    ),
    single('flotilla_http_requests_in_flight', 'Requests being answered', () => connections.requests),
    single(
      'flotilla_event_loop_delay_seconds',
      '99th percentile of the last sample',
      () => load.delay / 1000
    ),
    single('flotilla_event_loop_utilization', 'Busy share of the last sample', () => load.utilization)
  ]
}
