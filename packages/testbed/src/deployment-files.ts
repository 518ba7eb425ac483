import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { StateError } from './errors.js'

/**
 * A file of docker/: what runs here under test is what users deploy, to the letter.
 *
 * @param name below docker/, e.g. `nginx/run.sh`
 */
export async function deploymentFile(name: string): Promise<string> {
  // dist/ and src/ lie at the same depth.
  const path = join(import.meta.dirname, '..', '..', '..', 'docker', name)
  try {
    await access(path)
  } catch (cause) {
    const error = new StateError(`${path} is missing: the testbed runs on the files in docker/`)
    error.cause = cause
    throw error
  }
  return path
}
