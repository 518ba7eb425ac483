import { findProgram, programNames } from './programs.js'

/*
 * Finds or fetches every program and says which one will be used:
 *   node packages/testbed/dist/cli.js
 * Tests need not be preceded by it; it makes what they would fetch a step of its own.
 */
let missing = 0
for (const name of programNames) {
  try {
    const { path, version } = await findProgram(name)
    console.log(`${name.padEnd(14)}${version.padEnd(62)}${path}`)
  } catch (error) {
    missing += 1
    console.error(error instanceof Error ? error.message : error)
  }
}
process.exitCode = missing === 0 ? 0 : 1
