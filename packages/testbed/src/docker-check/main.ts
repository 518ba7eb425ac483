import { composeSteps, variantSteps } from './compose.js'
import { interrupt, interrupted, noEngine } from './engine.js'
import { Images } from './images.js'
import { Report } from './report.js'
import { swarmSteps } from './swarm.js'

/*
 * Builds the image and runs docker/ for real: the compose stack is brought up, used, scaled, hurt, rolled and told
 * wrong things while visitors read and write; its other shapes serve; then the Swarm stack. Prints a table; exits 0
 * when everything held and 1 otherwise. Ctrl-C takes everything away again.
 *   node packages/testbed/dist/docker-check/main.js [compose.haproxy.yaml …] [--no-variants] [--no-swarm] [--no-build]
 * --no-build takes the images that are there: flotilla-demo:dev and flotilla-pgbouncer:dev.
 */
const args = process.argv.slice(2)

const missing = await noEngine()
if (missing !== undefined) {
  process.stderr.write(`docker:check needs a Docker engine, and none is to be had here: ${missing}\n`)
  process.exit(1)
}
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => {
    process.stdout.write(`${signal}: taking everything away\n`)
    interrupt()
  })
}

const report = new Report()
const images = new Images(!args.includes('--no-build'))
try {
  if (await images.prepare(report)) {
    const overlays = args.filter((arg) => arg.endsWith('.yaml'))
    await composeSteps(report, images, overlays)
    if (!args.includes('--no-variants')) await variantSteps(report, images)
    if (!args.includes('--no-swarm') && !interrupted.aborted) await swarmSteps(report, images)
  }
} finally {
  await report.step('clean up', () => images.remove(), { cleans: true })
}
const held = report.end()
process.exit(held ? 0 : interrupted.aborted ? 130 : 1)
