import { NotReadyError } from './errors.js'
import type { ManagedProcess } from './managed-process.js'
import { PortTakenError } from './ports.js'
import { until } from './until.js'

/** How servers say that somebody else has their port. */
const portTaken = /address already in use|EADDRINUSE|cannot bind socket|could not bind/i

/**
 * Waits until `probe` is true, and no longer than the process lives. A process that does not come up is
 * killed.
 *
 * @throws PortTakenError where the port was lost to another process, so that the start can be repeated
 * @throws FLOTILLA_TESTBED_ERR_NOT_READY with the end of the process's output
 */
export async function whenReady(
  server: ManagedProcess,
  probe: () => Promise<boolean>,
  // A process that ends is seen at once; this bound is for one that runs and never answers.
  timeout = 60_000
): Promise<void> {
  let cause: unknown
  const ready = await until(
    async () => {
      if (!server.running) return 'ended'
      try {
        return (await probe()) && 'ready'
      } catch (error) {
        cause = error
        return false
      }
    },
    { interval: 4, timeout, message: `${server.name} answers` }
  ).catch(() => 'silent')
  if (ready === 'ready') return
  await server.kill()
  if (portTaken.test(server.output())) throw new PortTakenError(server.name)
  const why = ready === 'ended' ? 'it ended' : `it did not answer within ${timeout} ms`
  const error = new NotReadyError(server.name, `${why}; it wrote: ${lastLines(server.output())}`)
  if (cause !== undefined) error.cause = cause
  throw error
}

function lastLines(output: string): string {
  return output.trim().split('\n').slice(-8).join('\n') || 'nothing'
}
