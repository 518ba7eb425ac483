import { randomUUID } from 'node:crypto'
import { connectRedis, redisCommand, type RedisAddress } from './redis-client.js'
import { until } from './until.js'

/** What clients send to set up and look after a connection, which no caller asked for. */
const housekeeping = new Set([
  'AUTH',
  'CLIENT',
  'CLUSTER',
  'COMMAND',
  'CONFIG',
  'HELLO',
  'INFO',
  'MONITOR',
  'PING',
  'QUIT',
  'READONLY',
  'REPLCONF',
  'ROLE',
  'SELECT'
])

/** Records with MONITOR what a server executes while `work` runs, commands inside of scripts left out. */
export async function recordCommands<T>(
  address: RedisAddress,
  work: () => Promise<T> | T
): Promise<{ commands: string[][]; result: T }> {
  const client = connectRedis(address)
  await client.connect()
  // What `client.monitor()` does too, which fails where something is executed in the moment in which it begins: the driver
  // then has a line too early, and tells so as an error. Nothing before the mark counts.
  const monitor = client.duplicate({ monitor: true, lazyConnect: false })
  monitor.on('error', () => {})
  let monitoring = false
  monitor.once('monitoring', () => {
    monitoring = true
  })
  const seen: { name: string; command: string[] }[] = []
  let closed = ''
  const mark = `flotilla-monitor-${randomUUID()}`
  let opened = false
  monitor.on('monitor', (_time: string, command: string[], source: string) => {
    const name = String(command[0]).toUpperCase()
    if (command[1] === mark) {
      if (opened) closed = mark
      opened = true
    } else if (opened && source !== 'lua') {
      seen.push({ name, command: [name, ...command.slice(1)] })
    }
  })
  try {
    await until(() => monitoring, { message: 'MONITOR is accepted' })
    // A command that we know by its argument stands at both ends, so that nothing is missed or waited for in vain.
    await redisCommand(address, 'ECHO', mark)
    await until(() => opened, { message: 'MONITOR shows what the server executes' })
    const result = await work()
    await redisCommand(address, 'ECHO', mark)
    await until(() => closed !== '', { message: 'MONITOR has shown everything' })
    return {
      result,
      commands: seen.filter(({ name }) => !housekeeping.has(name)).map(({ command }) => command)
    }
  } finally {
    monitor.disconnect()
    client.disconnect()
  }
}
