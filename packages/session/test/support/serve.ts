import type { FastifyInstance } from 'fastify'
import { buildApp, type AppSettings } from './app.js'
import { Browser } from './browser.js'

export interface Served {
  app: FastifyInstance
  url: string
  browser(headers?: Record<string, string>): Browser
}

/** The app in this process on a free port, closed when the test ends. */
export async function serve(
  t: { teardown(fn: () => unknown): void },
  settings: AppSettings | FastifyInstance
): Promise<Served> {
  const app = 'listen' in settings ? settings : await buildApp(settings)
  t.teardown(() => app.close())
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  return { app, url, browser: (headers) => new Browser(url, headers) }
}
