import { randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import websocket from '@fastify/websocket'
import { joinHealth } from '@flotilla/core'
import {
  channelPrefixOf,
  isCluster,
  requirePermissions,
  resolveBus,
  resolveRedis,
  resolveSubscriber
} from '@flotilla/redis'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { Broadcast } from './broadcast.js'
import { Calls } from './call/calls.js'
import { ChannelKeys } from './channel-keys.js'
import { createChannelRules } from './channel-rules.js'
import { Commands } from './commands.js'
import { Connections } from './connections.js'
import { Drain } from './drain.js'
import { FLOTILLA_WS_ERR_ALREADY_REGISTERED, FLOTILLA_WS_ERR_OPTION } from './errors.js'
import { HistoryReader } from './history.js'
import { Hubs } from './hubs.js'
import { Membership } from './membership.js'
import { NO_INFO, readOptions, type BroadcastOptions } from './options.js'
import { Outbox } from './outbox.js'
import { permissionsFor } from './permissions.js'
import { Presence } from './presence.js'
import { Publishing } from './publishing.js'
import { revalidate } from './revalidation.js'
import { Revocation } from './revocation.js'
import { addSseRoute, addWebSocketRoute } from './routes.js'
import { StoredMessages } from './stored-messages.js'
import { UpgradeGate } from './upgrade.js'

const NAME = '@flotilla/ws-broadcast'
/** How long a refused upgrade has to read its answer, in milliseconds. */
const REFUSAL_LINGER = 100

declare module 'fastify' {
  interface FastifyInstance {
    broadcast: Broadcast
  }
}

async function broadcastPlugin(fastify: FastifyInstance, options: BroadcastOptions): Promise<void> {
  if (fastify.hasDecorator('broadcast')) throw new FLOTILLA_WS_ERR_ALREADY_REGISTERED()
  const config = readOptions(options)
  const log = fastify.log.child({ plugin: NAME })

  const client = resolveRedis(fastify, config.redis, NAME)
  const subscriber = resolveSubscriber(fastify, client)
  const bus = resolveBus(fastify, client)
  const keys = new ChannelKeys(config.keyPrefix, channelPrefixOf(client))
  const publish = isCluster(client) ? 'SPUBLISH' : 'PUBLISH'
  await requirePermissions(client, permissionsFor(config.keyPrefix, keys.wire('permissions'), publish))
  // A name of this start: what an earlier process under the same instance id left behind is not ours.
  const instance = `${bus.instance}#${randomBytes(4).toString('hex')}`

  const rules = createChannelRules(config.rules)
  const publishing = new Publishing(client, keys, rules, config)
  const hubs = new Hubs(client, subscriber, keys, new HistoryReader(client, keys), config.linger)
  const presence = new Presence(client, keys, instance, config.presenceLease, log)
  const calls = new Calls(config.maxPayload, log)
  const commands = new Commands({ config, rules, hubs, presence, publishing, calls, log })
  const connections = new Connections(config.ping)
  const membership = new Membership(bus, connections, commands, config.keyPrefix)
  const revocation = new Revocation(bus, connections, config.keyPrefix)
  const drain = new Drain(connections, config.drain)
  const gate = new UpgradeGate(config, connections, drain)
  const broadcast = new Broadcast({
    rules,
    connections,
    hubs,
    commands,
    calls,
    publishing,
    presence,
    stored: new StoredMessages(client, keys),
    membership,
    revocation,
    gate,
    drain,
    ping: config.ping.interval,
    limits: { maxPayload: config.maxPayload, maxChannels: config.maxChannels, ...config.rate },
    idempotencyTtl: config.idempotencyTtl,
    log,
    keepRequests:
      config.authorize !== undefined ||
      config.authenticate !== undefined ||
      config.rules.some(
        ({ presence: info, onPublish }) => onPublish || (info !== undefined && info !== NO_INFO)
      ),
    context: {
      outbox: new Outbox(),
      highWaterMark: config.highWaterMark,
      rate: { ...config.rate, maxPayload: config.maxPayload },
      onFrame: (connection, data, isBinary) => commands.receive(connection, data, isBinary),
      onCommand: (connection, data) => commands.execute(connection, data),
      onDrained: (connection) => {
        for (const subscription of connection.subscriptions.values()) subscription.drained()
      },
      onEnded: (connection) => {
        connections.remove(connection)
        commands.ended(connection)
      }
    }
  })
  fastify.decorate('broadcast', broadcast)

  const stopGap = subscriber.onGap((gap) => {
    if (gap.recovered) void presence.refresh()
  })
  const stopBusGap = bus.onGap(() => void revalidate(connections, gate, config, log))

  if (fastify.hasDecorator('websocketServer')) {
    assertCompression(fastify.websocketServer.options.perMessageDeflate, config.compression)
  } else {
    await fastify.register(websocket, {
      options: { maxPayload: config.maxPayload, perMessageDeflate: config.compression ?? false },
      errorHandler: (error, socket, request) => {
        request.log.debug({ err: error }, 'a websocket failed')
        socket.terminate()
      },
      // Its own would close every socket in the same moment, with a code that tells the client nothing.
      preClose: async () => undefined
    })
  }
  if (config.path !== false) addWebSocketRoute(fastify, config.path, broadcast, gate)
  if (config.ssePath !== false) addSseRoute(fastify, config.ssePath, broadcast, gate, config, rules)

  joinHealth(fastify, (health) => {
    health.addCheck('ws-broadcast', () => ({ details: { ...broadcast.stats() } }), { level: 'info' })
    health.onDrain('ws-broadcast', ({ deadline }) => drain.run(deadline))
  })
  fastify.addHook('preClose', async () => {
    // Fastify answers an upgrade that comes from now on with 503, but leaves its socket open and waits for it for ever.
    fastify.server.on('upgrade', (_request, socket: Socket) => {
      setTimeout(() => socket.destroy(), REFUSAL_LINGER).unref()
    })
    await drain.run()
    for (const socket of fastify.websocketServer.clients) socket.terminate()
    fastify.websocketServer.close()
  })
  fastify.addHook('onClose', async () => {
    stopGap()
    stopBusGap()
    connections.close()
    membership.close()
    revocation.close()
    hubs.close()
    await presence.close()
    publishing.close()
  })
}

/** The app's own `@fastify/websocket` decides: an option that says otherwise would not hold. */
function assertCompression(own: unknown, compression: boolean | undefined): void {
  if (compression === undefined || compression === Boolean(own)) return
  throw new FLOTILLA_WS_ERR_OPTION(
    `@flotilla/ws-broadcast: the option 'compression' is ${compression}, and your app has registered @fastify/websocket otherwise; ` +
      `pass it { options: { perMessageDeflate: ${compression} } }, or leave 'compression' out`
  )
}

/**
 * WebSocket channels across instances: history, resume, presence, backpressure, drain. Decorates the instance with
 * `broadcast`, a {@link Broadcast}.
 *
 * @throws FLOTILLA_WS_ERR_OPTION, FLOTILLA_WS_ERR_ALREADY_REGISTERED, FLOTILLA_REDIS_ERR_NO_CLIENT from `register`
 */
export const flotillaBroadcast = fp(broadcastPlugin, { name: NAME, fastify: '5.x' })
export default flotillaBroadcast
