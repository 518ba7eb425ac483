import { runDelivery } from './run.js'

/**
 * The whole delivery run: `node --import tsx packages/ws-broadcast/test/delivery/main.ts [clients] [messages]`.
 * Prints a table of the counts and fails where a message is missing, doubled or out of order.
 */
const [clients = 1000, messages = 10_000] = process.argv.slice(2).map(Number)
const result = await runDelivery({
  clients,
  messages,
  window: 25,
  cutEvery: 3000,
  faultEvery: 8000,
  log: (line) => process.stderr.write(`${new Date().toISOString().slice(11, 19)} ${line}\n`)
})
const rows: [string, string | number][] = [
  ['clients × messages', `${clients} × ${messages}`],
  ['acknowledged as durable', result.acknowledged],
  ['publishes repeated', result.repeated],
  ['deliveries expected', result.expected],
  ['deliveries', result.received],
  ['missing', result.missing],
  ['duplicates', result.duplicates],
  ['out of order', result.outOfOrder],
  ['stored again', result.restored],
  ['gap events', JSON.stringify(result.gaps)],
  ['client connections cut', result.cuts],
  ['faults', `${result.faults.length}: ${[...new Set(result.faults)].join('; ')}`],
  ['seconds', result.seconds]
]
process.stdout.write(rows.map(([name, value]) => `| ${name.padEnd(24)} | ${value} |\n`).join(''))
process.exitCode = result.missing + result.duplicates + result.outOfOrder > 0 ? 1 : 0
