import { createServer } from 'node:http'
import { parentPort, workerData } from 'node:worker_threads'
import { agentReply } from '../agent-reply.js'
import { createAgentServer } from '../agent-port.js'
import { openPort } from '../port.js'
import { SharedStatus } from './shared-status.js'

/** What the main thread hands over. */
export interface ThreadData {
  buffer: SharedArrayBuffer
  instance: string
  version: string
  port: number
  agentPort: number | undefined
  host: string
  blockedAfter: number
  /** Milliseconds between two signs of life of an idle main loop. */
  beat: number
}

/** What it hears back once the ports are open, or why they are not. */
export type ThreadReady = { port: number; agentPort: number | undefined } | { error: string }

const data = workerData as ThreadData
const status = new SharedStatus(data.buffer)

/** How long the main loop has been late with its sign of life, in milliseconds. */
function lag(): number {
  return Math.max(0, status.silence - data.beat)
}

function liveness(): { code: number; body: string } {
  const late = lag()
  const blocked = late > data.blockedAfter
  const { instance, version } = data
  const uptime = Math.floor(process.uptime())
  const body = { status: blocked ? 'blocked' : 'healthy', instance, version, uptime, lag: late }
  return { code: blocked ? 503 : 200, body: JSON.stringify(body) }
}

function agentLine(): string {
  const late = lag()
  return late > data.blockedAfter ? `down #blocked for ${late} ms\n` : agentReply(status.read())
}

const server = createServer((request, response) => {
  const { code, body } = liveness()
  response.writeHead(code, {
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store'
  })
  response.end(request.method === 'HEAD' ? undefined : body)
})

async function open(): Promise<ThreadReady> {
  const { host, agentPort } = data
  const port = await openPort(server, 'worker', { port: data.port, host })
  // The thread lives by its server; the main thread unrefs the whole worker.
  server.ref()
  if (agentPort === undefined) return { port, agentPort }
  return {
    port,
    agentPort: await openPort(createAgentServer(agentLine), 'worker.agentPort', { port: agentPort, host })
  }
}

function tell(ready: ThreadReady): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker's port has no origin
  parentPort?.postMessage(ready)
}

open().then(tell, (error: unknown) => tell({ error: (error as Error).message }))
