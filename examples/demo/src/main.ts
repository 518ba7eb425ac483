import { check, checkRunning } from './check/check.js'
import { parseCommand, USAGE } from './runner/command-line.js'
import { describe, DemoError } from './runner/errors.js'
import { startFleet } from './runner/fleet.js'

/* The fleet on this machine: `pnpm demo`, `pnpm demo --check`. */
async function main(): Promise<number> {
  const command = parseCommand(process.argv.slice(2))
  if (command.help) {
    console.log(USAGE)
    return 0
  }
  if (command.url !== '') return (await checkRunning(command.url, command.instances, command.only)) ? 0 : 1
  const interrupted = new Promise<NodeJS.Signals>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, resolve)
  })
  console.log('Starting the fleet')
  const starting = startFleet(command)
  const first = await Promise.race([starting, interrupted])
  if (typeof first === 'string') {
    // Whatever has come up by then goes down with us.
    await starting.then((fleet) => fleet.stop()).catch(() => {})
    return 130
  }
  const fleet = first
  try {
    if (command.check) {
      const done = await Promise.race([check(fleet, command.only), interrupted])
      return done === true ? 0 : done === false ? 1 : 130
    }
    console.log(`\n  The guest book: ${fleet.url}\n\n  Ctrl-C stops everything.\n`)
    await interrupted
    console.log('Stopping')
    return 0
  } finally {
    await fleet.stop()
  }
}

try {
  process.exit(await main())
} catch (error) {
  console.error(describe(error))
  process.exit(error instanceof DemoError && error.code === 'DEMO_ERR_USAGE' ? 2 : 1)
}
