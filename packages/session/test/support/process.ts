import { buildApp, type AppSettings } from './app.js'

// One instance of the app as a process of its own, for startApp.
const settings = JSON.parse(process.env['APP_SETTINGS'] ?? '{}') as AppSettings
const app = await buildApp(settings)
await app.listen({ host: process.env['HOST'] ?? '127.0.0.1', port: Number(process.env['PORT'] ?? 0) })

process.on('message', ({ id, message }: { id: number; message: { call: string; args: unknown[] } }) => {
  const sessions = app.sessions as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>
  Promise.resolve()
    .then(() => sessions[message.call]!(...message.args))
    .then(
      (reply) => process.send?.({ id, reply: reply ?? null }),
      (error: Error) => process.send?.({ id, error: error.message })
    )
})
process.on('SIGTERM', () => {
  void app.close().then(() => process.exit(0))
})
process.send?.({ ready: true })
