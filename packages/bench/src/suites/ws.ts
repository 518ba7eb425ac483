import { drive } from '../harness/measures.js'
import { defineSuite, type Case, type Measure } from '../harness/suite.js'

const EVERYONE = ['flotilla', 'floor', 'socket.io', 'socket.io-sharded'] as const
/** Connecting a thousand sockets is part of the first stretch. */
const PATIENCE = 240_000
const PAIRS = Object.fromEntries(EVERYONE.map((name) => [name, { instances: 2 }]))

/**
 * Bytes of resident memory that each further idle connection takes, once the heap has grown to its first thousands
 * of them. So many at a time, because a heap grows by steps of a quarter of a megabyte; they stay open through all
 * rounds, so that none takes the place of another in memory. Each subject has a driver of its own: with 13,500 sockets in the
 * end, all stay within the 20,000 files that a process may often open.
 */
const idleMemory: Measure = async (round) => {
  const subject = round.processes[0]!
  const driver = await round.process(`driver of ${round.subject}`)
  const sockets = round.quick ? 200 : round.warmup ? 4500 : 3000
  const request = { ms: round.ms, quick: round.quick, warmup: round.warmup }
  const before = await subject.work('memory', { ...request, args: {} })
  await driver.work('idle', { ...request, args: { subject: round.subject, urls: round.urls, sockets } })
  const after = await subject.work('memory', { ...request, args: {} })
  return Math.max(0, after - before) / sockets
}

/** `quick` runs see that it works with a hundredth of the channels. */
const manyChannels = (name: string, title: string, prefix: string): Case => ({
  name,
  title,
  unit: 'messages/s',
  subjects: EVERYONE,
  measure: (round) =>
    drive('channels', {
      args: round.quick
        ? { sockets: 100, channels: 1000, prefix }
        : { sockets: 1000, channels: 100_000, prefix }
    })(round),
  fresh: true,
  maxRounds: 5,
  patience: PATIENCE
})

const fanout = (name: string, title: string, burst: number): Case => ({
  name,
  title,
  unit: 'deliveries/s',
  subjects: EVERYONE,
  measure: drive('fanout', { args: { sockets: 1000, burst } }),
  patience: PATIENCE
})

const latency = (name: string, title: string, channel: string): Case => ({
  name,
  title,
  unit: 'ms',
  higherIsBetter: false,
  subjects: PAIRS,
  measure: drive('latency', { args: { channel } })
})

export default defineSuite({
  name: 'ws',
  title: 'WebSocket channels',
  servers: ['redis'],
  subjects: new URL('../subjects/ws.js', import.meta.url),
  cases: [
    fanout('fanout-steady', 'one message at a time to 1,000 sockets, the next when all have it', 1),
    fanout('fanout-burst', '20 messages at once to 1,000 sockets, the next when all have them', 20),
    latency(
      'cross-instance-latency',
      "median from a client's publish on one instance to a client's socket on another; nothing is kept",
      'plain:latency'
    ),
    latency(
      'cross-instance-latency-history',
      'as cross-instance-latency; ours is in the history when it arrives, the others keep nothing',
      'fan:latency'
    ),
    {
      name: 'idle-memory',
      title: 'resident memory of one more connection that does nothing',
      unit: 'bytes',
      higherIsBetter: false,
      subjects: EVERYONE,
      measure: idleMemory,
      fresh: true,
      // Of one size from the start: that it grows by megabytes is no connection's doing.
      flags: ['--min-semi-space-size=16', '--max-semi-space-size=16'],
      maxRounds: 3,
      patience: PATIENCE
    },
    manyChannels(
      'many-channels',
      '100,000 channels with one member each: messages published and received; nothing is kept',
      'plain:many'
    ),
    manyChannels(
      'many-channels-history',
      'as many-channels; ours are in the histories when they arrive, the others keep nothing',
      'many'
    ),
    {
      name: 'reconnect-storm',
      title: '1,000 sockets come back at once; ours get the 10 messages they missed, the others lose them',
      unit: 'ms',
      higherIsBetter: false,
      subjects: EVERYONE,
      measure: drive('storm', { args: { sockets: 1000 } }),
      fresh: true,
      maxRounds: 5,
      patience: PATIENCE
    }
  ]
})
