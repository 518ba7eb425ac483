import { connect } from 'node:net'
import type { ConnectionPool } from './connection-pool.js'
import type { RouterClient } from './router-client.js'
import { isCancelled } from './sqlstate.js'

const CANCEL_REQUEST_CODE = 80877102
/** How long a cancelled connection may take to become ready before it is dropped, in milliseconds. */
const READY_WITHIN = 5_000

/**
 * Asks the server to cancel what `client` runs (protocol message CancelRequest, on a connection of its own to
 * the very address the client is connected to). Resolves when the server has closed that connection, which
 * is after it signalled the backend; never rejects.
 */
export function cancelBackend(client: RouterClient): Promise<void> {
  return new Promise((resolve) => {
    const { remoteAddress, remotePort } = client.connection.stream as unknown as {
      remoteAddress?: string
      remotePort?: number
    }
    const socketFile = client.host.startsWith('/') ? `${client.host}/.s.PGSQL.${client.port}` : undefined
    if (!socketFile && !remoteAddress) return resolve()
    const { processId, secretKey } = client.backend
    const message = Buffer.alloc(16)
    message.writeInt32BE(16, 0)
    message.writeInt32BE(CANCEL_REQUEST_CODE, 4)
    message.writeInt32BE(processId, 8)
    message.writeInt32BE(secretKey, 12)
    const socket = socketFile ? connect(socketFile) : connect({ host: remoteAddress!, port: remotePort! })
    socket.setTimeout(READY_WITHIN, () => socket.destroy())
    socket.on('connect', () => socket.write(message))
    socket.on('data', () => {})
    socket.on('error', () => {})
    socket.on('close', () => resolve())
    socket.unref()
  })
}

/**
 * Cancels what `client` runs and keeps it from the pool until that has been answered and no cancel can
 * still hit the next statement. A connection that does not become ready in time is dropped.
 *
 * @param answered settles when the statement's own answer has arrived
 */
export async function cancelAndQuarantine(
  client: RouterClient,
  pool: ConnectionPool,
  answered: Promise<void>
): Promise<void> {
  const timer = setTimeout(
    () => client.destroy(new Error('The cancelled statement did not end')),
    READY_WITHIN
  )
  timer.unref()
  await Promise.all([cancelBackend(client), answered])
  const failure = client.broken ? new Error('The connection was lost') : await ping(client)
  clearTimeout(timer)
  pool.release(client, failure)
}

async function ping(client: RouterClient): Promise<Error | undefined> {
  for (let tries = 0; tries < 3; tries++) {
    const error = await new Promise<Error | undefined>((resolve) => client.ask({ text: '' }, resolve))
    // A cancel that came late hit the ping instead of the next caller's statement: what it is for.
    if (!error || !isCancelled(error)) return error
  }
  return undefined
}
