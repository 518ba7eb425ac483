import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Endpoint } from './endpoints.js'
import { closePort, openPort, type OpenPort } from './port.js'

/** All endpoints on a port of their own, with details and without the app's hooks. */
export async function openAdminPort(
  at: { port: number; host: string },
  endpoints: ReadonlyMap<string, Endpoint>
): Promise<OpenPort> {
  const server = createServer((request, response) => void answer(endpoints, request, response))
  server.keepAliveTimeout = 5000
  const port = await openPort(server, 'admin', at)
  return {
    port,
    close: () => {
      server.closeAllConnections()
      return closePort(server)
    }
  }
}

async function answer(
  endpoints: ReadonlyMap<string, Endpoint>,
  request: IncomingMessage,
  response: ServerResponse
): Promise<void> {
  const [path = ''] = (request.url ?? '').split('?')
  const endpoint = endpoints.get(path)
  const { method } = request
  if (endpoint === undefined || (method !== 'GET' && method !== 'HEAD')) {
    response.writeHead(endpoint === undefined ? 404 : 405, { 'content-length': 0 }).end()
    return
  }
  try {
    const { status, type, body } = await endpoint(request, true)
    response.writeHead(status, {
      'content-type': type,
      'content-length': Buffer.byteLength(body),
      'cache-control': 'no-store'
    })
    response.end(method === 'HEAD' ? undefined : body)
  } catch {
    response.writeHead(500, { 'content-length': 0 }).end()
  }
}
