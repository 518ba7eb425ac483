import type { Fleet } from '../runner/fleet.js'
import { describe, DemoError } from '../runner/errors.js'
import { story } from './story.js'
import { tableOf, type Outcome } from './table.js'

/** Walks the whole story, also past a chapter that failed, and prints what held. True when all of it did. */
export async function check(fleet: Fleet, only = ''): Promise<boolean> {
  const chapters = story.filter(({ name }) => name.includes(only))
  if (chapters.length === 0)
    throw new DemoError('DEMO_ERR_USAGE', `nothing in the story has "${only}" in its name`)
  const outcomes: Outcome[] = []
  for (const chapter of chapters) {
    if (process.stdout.isTTY) process.stdout.write(`  … ${chapter.name}`)
    const begin = performance.now()
    const [held, detail] = await chapter.run(fleet).then(
      (seen) => [true, seen] as const,
      (error: unknown) => [false, describe(error)] as const
    )
    const outcome = { name: chapter.name, held, detail, ms: performance.now() - begin }
    outcomes.push(outcome)
    if (process.stdout.isTTY) process.stdout.write('\r\u001b[K')
  }
  console.log(`\n${tableOf(outcomes)}\n`)
  const broken = outcomes.filter(({ held }) => !held)
  if (broken.length === 0) {
    console.log(`All ${outcomes.length} held.`)
    return true
  }
  console.log(`Did not hold: ${broken.map(({ name }) => name).join('; ')}`)
  return false
}
