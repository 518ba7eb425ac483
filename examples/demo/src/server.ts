import { buildApp } from './app.js'
import { ConfigError, readConfig } from './config.js'

/* One instance of the guest book. SIGTERM drains it; see @flotilla/health. */
try {
  const config = readConfig()
  const app = await buildApp(config)
  const url = await app.listen({ host: config.host, port: config.port })
  process.send?.({ ready: true, url })
} catch (error) {
  const { code, message, stack } = error as Error & { code?: string }
  console.error(error instanceof ConfigError ? `${code}: ${message}` : stack)
  process.exit(1)
}
