import { canFetchPackages } from './debian-packages.js'
import { findProgram, programNames } from './programs.js'

/*
 * Finds or fetches every program and says which one will be used:
 *   node packages/testbed/dist/cli.js
 *   node packages/testbed/dist/cli.js --json        for other programs: name to version
 *   node packages/testbed/dist/cli.js --can-fetch   exits with 0 if this system can fetch programs
 * Tests need not be preceded by it; it makes what they would fetch a step of its own.
 */
const [mode] = process.argv.slice(2)
if (mode === '--can-fetch') process.exit(canFetchPackages() ? 0 : 1)

const versions: Record<string, string> = {}
let missing = 0
for (const name of programNames) {
  try {
    const { path, version } = await findProgram(name)
    versions[name] = version
    if (mode !== '--json') console.log(`${name.padEnd(14)}${version.padEnd(62)} ${path}`)
  } catch (error) {
    missing += 1
    console.error(error instanceof Error ? error.message : error)
  }
}
if (mode === '--json') console.log(JSON.stringify(versions))
process.exitCode = missing === 0 ? 0 : 1
