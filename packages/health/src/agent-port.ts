import { createServer, type Server } from 'node:net'
import { closePort, openPort, type OpenPort } from './port.js'

/** A server that writes one line to whoever connects: HAProxy's agent-check. Nothing it receives is read. */
export function createAgentServer(line: () => string): Server {
  return createServer((socket) => {
    // A checker that hangs up early is nothing to report.
    socket.on('error', () => socket.destroy())
    socket.setTimeout(2000, () => socket.destroy())
    socket.resume()
    socket.end(line())
  })
}

export async function openAgentPort(
  at: { port: number; host: string },
  line: () => string
): Promise<OpenPort> {
  const server = createAgentServer(line)
  return { port: await openPort(server, 'agent', at), close: () => closePort(server) }
}
