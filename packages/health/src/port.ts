import { once } from 'node:events'
import type { AddressInfo, Server } from 'node:net'
import { HealthPortError } from './errors.js'

/** A port that is listening besides the app's own. */
export interface OpenPort {
  readonly port: number
  close(): Promise<void>
}

/** Listens without holding the process open. @throws FLOTILLA_HEALTH_ERR_PORT naming the option */
export async function openPort(
  server: Server,
  option: string,
  { port, host }: { port: number; host: string }
): Promise<number> {
  try {
    // Exclusive: in a cluster the workers would share the port, and each answer would be another worker's.
    server.listen({ port, host, exclusive: true })
    await once(server, 'listening')
  } catch (error) {
    const { code = String(error) } = error as NodeJS.ErrnoException
    throw new HealthPortError(option, `${host}:${port}`, code, { cause: error })
  }
  server.on('error', () => undefined)
  server.unref()
  return (server.address() as AddressInfo).port
}

export function closePort(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
  })
}
