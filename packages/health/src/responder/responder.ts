import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { AgentStatus } from '../agent-reply.js'
import { HealthPortError } from '../errors.js'
import type { Identity } from '../identity.js'
import type { WorkerSettings } from '../options.js'
import { SharedStatus } from './shared-status.js'
import type { ThreadData, ThreadReady } from './thread.js'

const BEAT = 50

/** A worker thread that answers liveness, and HAProxy's agent-check, however busy the main loop is. */
export interface Responder {
  readonly port: number
  readonly agentPort: number | undefined
  update(status: AgentStatus): void
  close(): Promise<void>
}

/** @throws FLOTILLA_HEALTH_ERR_PORT */
export async function openResponder(settings: WorkerSettings, identity: Identity): Promise<Responder> {
  const shared = new SharedStatus()
  shared.beat()
  const { instance, version } = identity
  const workerData: ThreadData = { ...settings, buffer: shared.buffer, instance, version, beat: BEAT }
  // By name rather than beside this file: a thread knows nothing of the loader that may run this one.
  const worker = new Worker(new URL(import.meta.resolve('#responder-thread')), { workerData })
  worker.unref()
  const timer = setInterval(() => shared.beat(), BEAT)
  timer.unref()
  const close = async (): Promise<void> => {
    clearInterval(timer)
    await worker.terminate()
  }
  const [ready] = (await once(worker, 'message')) as [ThreadReady]
  if ('error' in ready) {
    await close()
    throw new HealthPortError('worker', `${settings.host}:${settings.port}`, ready.error)
  }
  return { ...ready, update: (status) => shared.write(status), close }
}
