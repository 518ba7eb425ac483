import { createCertificate, startPostgres } from '@flotilla/testbed'
import { chown, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ConnectionOptions } from 'node:tls'
import type { ClientConfig } from 'pg'
import t from 'tap'
import { codeOf, createApp } from './fixtures/app-in-process.js'

const folder = await mkdtemp(join(tmpdir(), 'certificates-'))
const ca = await createCertificate(folder)
if (process.getuid?.() === 0) {
  // The server runs as an unprivileged user then, and takes a key of its own or of root's.
  const passwd = await readFile('/etc/passwd', 'utf8')
  const [, uid, gid] = /^nobody:[^:]*:(\d+):(\d+)/m.exec(passwd)!
  for (const path of [folder, join(folder, 'server.key'), join(folder, 'server.crt')])
    await chown(path, Number(uid), Number(gid))
}
const postgres = await startPostgres({
  replicas: 0,
  settings: {
    ssl: true,
    ssl_cert_file: join(folder, 'server.crt'),
    ssl_key_file: join(folder, 'server.key')
  }
})
t.teardown(async () => {
  await postgres.stop()
  await rm(folder, { recursive: true, force: true })
})
const { primary } = postgres
await primary.admin.query("create role visitor login password 'first'")

const secured = (ssl: ConnectionOptions): ClientConfig => ({
  host: primary.host,
  port: primary.port,
  database: primary.database,
  user: 'visitor',
  password: 'first',
  ssl
})

t.test('a certificate that is trusted', async (sub) => {
  const app = await createApp(sub, { primary: secured({ ca }) })
  const { rows } = await app.db.write.query('select ssl from pg_stat_ssl where pid = pg_backend_pid()')
  sub.strictSame(rows, [{ ssl: true }])
})

t.test('a certificate that is not trusted fails register, by name', async (sub) => {
  for (const ssl of [{}, { rejectUnauthorized: true }, { ca, servername: 'elsewhere.example' }]) {
    const failure = await createApp(sub, { primary: secured(ssl) }).catch((error: unknown) => error)
    sub.match(failure, { code: 'FLOTILLA_DB_ERR_START', message: /certificate/ })
  }
})

t.test('that of a replica is its loss, and status says why', async (sub) => {
  const servers = { primary: secured({ ca }), replicas: [{ ...secured({}), host: 'localhost' }] }
  const app = await createApp(sub, servers)
  sub.match(app.db.status().servers[1], { state: 'down', reason: /certificate/ })
  sub.equal(await codeOf(app.db.read.query('select 1')), undefined)
})
