import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/**
 * Makes `server.key` and `server.crt`, self-signed for localhost, in a folder.
 *
 * @returns the certificate, which is also the authority to trust
 */
export async function createCertificate(folder: string): Promise<string> {
  const certificate = join(folder, 'server.crt')
  const options =
    'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost ' +
    '-addext subjectAltName=DNS:localhost,IP:127.0.0.1'
  await run('openssl', [...options.split(' '), '-keyout', join(folder, 'server.key'), '-out', certificate])
  return readFile(certificate, 'utf8')
}
