import { once } from 'node:events'
import { createServer, get, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { until } from '@flotilla/testbed'
import { test, type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { Frame } from '../src/frame.js'
import { Batch } from '../src/outbox.js'
import { SseTransport } from '../src/sse.js'
import type { Transport } from '../src/transport.js'
import { WsTransport } from '../src/ws-transport.js'

/** A transport and its client, which does not read until it is told to. */
interface Stalled {
  transport: Transport
  resume: () => void
  /** The end of what the client has read. */
  read: () => string
}

async function overWebSocket(t: Test): Promise<Stalled> {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  t.teardown(() => server.close())
  await once(server, 'listening')
  const client = new WebSocket(`ws://127.0.0.1:${(server.address() as AddressInfo).port}`, {
    perMessageDeflate: false
  })
  t.teardown(() => client.terminate())
  const [socket] = (await once(server, 'connection')) as [WebSocket]
  await once(client, 'open')
  client.pause()
  let tail = ''
  client.on('message', (data: Buffer) => void (tail = data.toString().slice(-50)))
  return { transport: new WsTransport(socket), resume: () => client.resume(), read: () => tail }
}

async function overEvents(t: Test): Promise<Stalled> {
  const server = createServer().listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const request = get({ port: (server.address() as AddressInfo).port, host: '127.0.0.1' })
  t.teardown(() => request.destroy())
  const [, response] = (await once(server, 'request')) as [IncomingMessage, ServerResponse]
  response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
  const [incoming] = (await once(request, 'response')) as [IncomingMessage]
  let tail = ''
  const resume = (): void =>
    void incoming.on('data', (data: Buffer) => void (tail = (tail + data.toString()).slice(-50)))
  return { transport: new SseTransport(response, new Map()), resume, read: () => tail }
}

/** Writes until the kernel takes no more: what waits is less than what makes Node's own stream ask for a `drain`. */
async function fill(transport: Transport): Promise<void> {
  const text = JSON.stringify({ type: 'x', text: 'x'.repeat(1000) })
  for (let n = 0; n < 100_000 && transport.buffered === 0; n += 1) {
    transport.write(new Batch().with(new Frame(text)))
    await turn()
  }
}

for (const [kind, open] of Object.entries({ ws: overWebSocket, sse: overEvents })) {
  test(`${kind}: drained is what nothing waits for any more, however little does`, async (t) => {
    const { transport, resume, read } = await open(t)
    await fill(transport)
    t.ok(transport.buffered > 0 && transport.buffered < 16_384, `${transport.buffered} bytes wait`)
    let left: number | undefined
    transport.onceDrained(() => {
      left = transport.buffered
    })
    for (let turns = 0; turns < 5; turns += 1) await turn()
    t.equal(left, undefined, 'it is not drained')
    resume()
    await until(() => left !== undefined)
    t.equal(left, 0)

    transport.write(new Batch().with(new Frame('{"type":"afterwards"}')))
    await until(() => read().includes('afterwards'))
  })

  test(`${kind}: who waits for a connection to drain hears of its end`, async (t) => {
    const { transport } = await open(t)
    await fill(transport)
    let told = 0
    const tell = (): void => void (told += 1)
    transport.onceDrained(tell)
    transport.terminate()
    await until(() => told === 1)
    transport.onceDrained(tell)
    await until(() => told === 2)
  })
}
