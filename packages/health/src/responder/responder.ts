import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { AgentStatus } from '../agent-reply.js'
import { HealthOptionError, HealthPortError } from '../errors.js'
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

/** @throws FLOTILLA_HEALTH_ERR_PORT; FLOTILLA_HEALTH_ERR_OPTION where a thread cannot be started */
export async function openResponder(settings: WorkerSettings, identity: Identity): Promise<Responder> {
  const shared = new SharedStatus()
  shared.beat()
  const { instance, version } = identity
  const workerData: ThreadData = { ...settings, buffer: shared.buffer, instance, version, beat: BEAT }
  const worker = startThread(workerData)
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

function startThread(workerData: ThreadData): Worker {
  try {
    // By name rather than beside this file: a thread knows nothing of the loader that may run this one.
    return new Worker(new URL(import.meta.resolve('#responder-thread')), { workerData })
  } catch (error) {
    throw new HealthOptionError(
      `option 'worker' cannot start its thread (${(error as Error).message}): it needs a file of its own, so keep ` +
        '@flotilla/health out of a bundle (external); under --permission, --allow-worker'
    )
  }
}
