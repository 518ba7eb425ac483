import { monitorEventLoopDelay, performance, type EventLoopUtilization } from 'node:perf_hooks'
import type { OverloadSettings } from './options.js'

/** How busy the process is. */
export interface Load {
  /** 99th percentile of the event loop's delay in the last sample, in milliseconds. */
  delay: number
  /** Share of time the event loop was busy in the last sample, 0 to 1. */
  utilization: number
  heapUsed: number
  heapTotal: number
  rss: number
}

const RESOLUTION = 10

/** Samples the event loop and memory, and tells when a limit is passed. */
export class LoadMonitor {
  readonly load: Load = { delay: 0, utilization: 0, heapUsed: 0, heapTotal: 0, rss: 0 }
  private readonly delays = monitorEventLoopDelay({ resolution: RESOLUTION })
  private before: EventLoopUtilization = performance.eventLoopUtilization()
  private timer: NodeJS.Timeout | undefined

  /** @param onSample hears the limits that are passed after each sample, by name */
  constructor(
    private readonly limits: OverloadSettings | undefined,
    private readonly onSample: (passed: readonly string[]) => void
  ) {}

  start(): void {
    this.delays.enable()
    this.timer = setInterval(() => this.sample(), this.limits?.interval ?? 1000)
    this.timer.unref()
    this.sample()
  }

  stop(): void {
    clearInterval(this.timer)
    this.delays.disable()
  }

  private sample(): void {
    const { load } = this
    const now = performance.eventLoopUtilization()
    load.utilization = performance.eventLoopUtilization(now, this.before).utilization || 0
    this.before = now
    // The histogram counts the timer's own resolution as delay.
    load.delay = this.delays.count > 0 ? Math.max(0, this.delays.percentile(99) / 1e6 - RESOLUTION) : 0
    this.delays.reset()
    const memory = process.memoryUsage()
    load.heapUsed = memory.heapUsed
    load.heapTotal = memory.heapTotal
    load.rss = memory.rss
    this.onSample(this.passed())
  }

  private passed(): string[] {
    const { limits, load } = this
    if (limits === undefined) return []
    const passed: string[] = []
    if (load.delay > limits.eventLoopDelay) passed.push('event loop delay')
    if (load.utilization > limits.eventLoopUtilization) passed.push('event loop utilisation')
    if (load.heapUsed > limits.heapUsed) passed.push('heap')
    if (load.rss > limits.rss) passed.push('rss')
    return passed
  }
}
