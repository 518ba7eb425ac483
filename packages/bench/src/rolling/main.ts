/* What a rolling restart loses: `node dist/rolling/main.js [--runs N] [--variant NAME] [--balancer NAME] [--json FILE]`. */
import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { BALANCERS, roll, VARIANTS, type Roll } from './roll.js'

const { values } = parseArgs({
  args: process.argv.slice(2).filter((argument) => argument !== '--'),
  options: {
    runs: { type: 'string', default: '1' },
    variant: { type: 'string' },
    balancer: { type: 'string' },
    json: { type: 'string' }
  }
})

const variants = VARIANTS.filter((name) => values.variant === undefined || values.variant === name)
const balancers = BALANCERS.filter((name) => values.balancer === undefined || values.balancer === name)
const rolls: Roll[] = []
for (let run = 1; run <= Number(values.runs); run++) {
  for (const variant of variants) {
    for (const balancer of balancers) {
      const one = await roll(variant, balancer)
      rolls.push(one)
      console.log(`run ${run} ${line(one)}`)
      for (const what of [...one.load.failures, ...one.feed.lost].slice(0, 3)) console.log(`      ${what}`)
      if (values.json !== undefined) await writeFile(values.json, JSON.stringify(rolls, null, 2))
    }
  }
}
process.exitCode = rolls.every((one) => one.variant !== 'flotilla' || lossOf(one) === 0) ? 0 : 1

function lossOf({ load, feed }: Roll): number {
  return load.failures.length + feed.lost.length
}

function line({ variant, balancer, load, feed, seconds }: Roll): string {
  const { get, post, slow, upload } = load.answered
  const requests = get + post + slow + upload + load.failures.length
  return (
    `${variant.padEnd(17)} ${balancer.padEnd(8)} ${load.failures.length} of ${requests} requests lost, ` +
    `${feed.lost.length} lost with ${feed.published} messages (${feed.reconnects} reconnects, ${feed.gaps} gaps), ` +
    `${load.repeated} repeated by clients, ${seconds} s`
  )
}
