import { connect } from './flotilla/client/index.js'
import { byId, count, log, setText } from './dom.js'

const CHANNEL = 'guest-book'
/** A message may be this much later than the database has its entry, in milliseconds. */
const PATIENCE = 5_000

let client
let opened = 0
let lastState = ''
/** Entries that came through a socket, and entries that a read showed first. */
const received = new Set()
const awaited = new Map()
let firstExpected = Infinity

/**
 * Opens the socket, or opens it anew with the cookies as they are now. `onPost` gets each new entry,
 * `onStale` is called when what the page shows may have missed something.
 */
export function startLive({ onPost, onStale }) {
  client?.close()
  opened = 0
  client = connect('/ws', { reconnect: { min: 200, max: 3_000 } })
  client.subscribe(CHANNEL, (message) => {
    const id = Number(message.data.id)
    if (received.has(id)) log(`entry ${id} came twice`)
    received.add(id)
    awaited.delete(id)
    count('messages')
    onPost(message)
  })
  client.on('state', ({ state, code }) => {
    if (state === lastState) return
    lastState = state
    const text = { open: 'live', connecting: 'reconnecting', closed: 'socket closed' }[state]
    byId('live').dataset.state = state
    setText(byId('live-text'), text)
    if (state === 'open' && opened++ > 0) {
      count('resumed')
      log('the socket is back and has caught up')
    } else if (state === 'connecting' && opened > 0) log(`the socket was closed (${code ?? 'no code'})`)
    else if (state === 'closed' && code === 4401) log('this session was revoked: its socket was closed')
  })
  client.on('gap', ({ reason }) => {
    count('lost')
    log(`messages may be missing (${reason}): reading the book again`)
    onStale()
  })
  client.on('error', (error) => log(`socket: ${error.message}`))
}

/** Compares what was read with what came by socket: each entry written since must come, soon. */
export function expectMessages(posts) {
  const now = performance.now()
  for (const { id } of posts) {
    const number = Number(id)
    if (firstExpected === Infinity || number < firstExpected || received.has(number)) continue
    if (!awaited.has(number)) awaited.set(number, now)
  }
  // What was in the book before the socket was up is not awaited.
  if (firstExpected === Infinity && client?.state === 'open') firstExpected = Number(posts[0]?.id ?? 0) + 1
  for (const [id, since] of awaited) {
    if (client?.state !== 'open') awaited.set(id, now)
    else if (now - since > PATIENCE) {
      awaited.delete(id)
      received.add(id)
      count('lost')
      log(`entry ${id} never came through the socket`)
    }
  }
}
