import type { Fleet } from '../runner/fleet.js'
import { describe, DemoError } from '../runner/errors.js'
import { story, type Reached } from './story.js'
import { tableOf, type Outcome } from './table.js'

/** Walks the whole story, also past a chapter that failed, and prints what held. True when all of it did. */
export function check(fleet: Fleet, only = ''): Promise<boolean> {
  const urls = fleet.apps.instances.map(({ url }) => url)
  const reached: Reached = { url: fleet.url, urls, fleet }
  return walk(
    story.map((chapter) => ({
      name: chapter.name,
      run: () => (chapter.needs === 'fleet' ? chapter.run(fleet) : chapter.run(reached))
    })),
    only
  )
}

/**
 * The same on a fleet that somebody else runs, through its balancer alone. Chapters that hurt servers are left
 * out: nobody here may do that.
 */
export function checkRunning(url: string, instances: number, only = ''): Promise<boolean> {
  const reached: Reached = { url, urls: Array.from({ length: instances }, () => url), fleet: undefined }
  return walk(
    story.flatMap((chapter) =>
      chapter.needs === 'balancer' ? [{ name: chapter.name, run: () => chapter.run(reached) }] : []
    ),
    only
  )
}

async function walk(
  all: readonly { name: string; run(): Promise<string> }[],
  only: string
): Promise<boolean> {
  const chapters = all.filter(({ name }) => name.includes(only))
  if (chapters.length === 0)
    throw new DemoError('DEMO_ERR_USAGE', `nothing in the story has "${only}" in its name`)
  const outcomes: Outcome[] = []
  for (const chapter of chapters) {
    if (process.stdout.isTTY) process.stdout.write(`  … ${chapter.name}`)
    const begin = performance.now()
    const [held, detail] = await chapter.run().then(
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
