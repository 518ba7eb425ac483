import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Broadcast } from './broadcast.js'
import { isChannelName, type ChannelRules } from './channel-rules.js'
import type { BroadcastConfig } from './options.js'
import { CLOSE } from './protocol.js'
import { decodePositions, SseTransport } from './sse.js'
import { hasGone } from './transport.js'
import type { UpgradeGate } from './upgrade.js'

/** The WebSocket endpoint. A plain GET of it answers 404. */
export function addWebSocketRoute(
  fastify: FastifyInstance,
  path: string,
  broadcast: Broadcast,
  gate: UpgradeGate
): void {
  fastify.get(
    path,
    { websocket: true, preValidation: gate.admit, preHandler: gate.authenticateSocket },
    (socket, request) => {
      // This one holds on to the request and the reply; attach listens in its place.
      socket.removeAllListeners('error')
      if (gate.refuse(socket, request)) return
      broadcast.attach(socket, request, {
        identity: gate.identityOf(request)
      })
    }
  )
}

/** `GET <path>?channels=a,b`: the channels' messages as server-sent events, resumed by Last-Event-ID. */
export function addSseRoute(
  fastify: FastifyInstance,
  path: string,
  broadcast: Broadcast,
  gate: UpgradeGate,
  config: BroadcastConfig,
  rules: ChannelRules
): void {
  fastify.get(
    path,
    {
      preValidation: gate.admit,
      preHandler: gate.authenticate,
      // A HEAD would wait for an end that does not come.
      exposeHeadRoute: false
    },
    async (request: FastifyRequest, reply: FastifyReply) => {
      const { channels: list, since } = request.query as { channels?: unknown; since?: unknown }
      const channels = typeof list === 'string' ? [...new Set(list.split(','))] : []
      if (channels.length === 0 || channels.length > config.maxChannels || !channels.every(isChannelName)) {
        return reply
          .code(400)
          .send({ code: 'bad_channel', message: `channels is a list of 1 to ${config.maxChannels} names` })
      }
      for (const channel of channels) {
        if (!rules.find(channel)) {
          return reply.code(404).send({ code: 'unknown_channel', message: 'There is no such channel' })
        }
        if (config.authorize && !(await config.authorize(request, channel, 'subscribe'))) {
          return reply.code(403).send({ code: 'forbidden', message: 'You may not subscribe here' })
        }
      }
      // The reader may have gone, or the drain begun, while this was found out.
      if (hasGone(reply.raw)) return reply.hijack()
      gate.assertOpen()
      const seen = request.headers['last-event-id'] ?? since
      const positions = decodePositions(typeof seen === 'string' ? seen.slice(0, 16_384) : '')
      reply.hijack()
      const { raw } = reply
      raw.writeHead(200, {
        ...(reply.getHeaders() as Record<string, string>),
        'content-type': 'text/event-stream',
        'cache-control': 'no-store, no-transform',
        'x-accel-buffering': 'no'
      })
      // Each event names them anew: those of other channels are not carried along.
      const own = [...positions].filter(([channel]) => channels.includes(channel))
      const transport = new SseTransport(raw, new Map(own))
      const connection = broadcast.open(transport, request, gate.identityOf(request))
      raw.once('close', () => connection.ended(connection.closeCode || 1006))
      for (const channel of channels) {
        if (!connection.open) break
        if (await broadcast.enter(connection, channel, positions.get(channel))) continue
        // It cannot ask again but by coming again, which it does by itself.
        connection.close(CLOSE.RESTART, 'could not subscribe')
        break
      }
      return reply
    }
  )
}
