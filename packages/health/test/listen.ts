import type { FeedEvents } from '@flotilla/testbed'
import { connect } from '@flotilla/ws-broadcast/client'
import { WebSocket } from 'ws'

/** A WebSocket client that resumes where it stood, as a listener of the testbed's feed. */
export function listenTo(url: string, channel: string): (events: FeedEvents) => () => void {
  return ({ message, gap, reconnect }) => {
    const client = connect(`${url}/ws`, { WebSocket, reconnect: { min: 50, max: 500 } })
    client.on('gap', gap)
    client.on('state', ({ state }) => state === 'connecting' && reconnect())
    client.subscribe<{ n: number }>(channel, ({ data }) => message(data.n))
    return () => client.close()
  }
}
