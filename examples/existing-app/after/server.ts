import { buildApp } from './app.js'

const app = await buildApp()
const url = await app.listen({
  host: process.env['HOST'] ?? '127.0.0.1',
  port: Number(process.env['PORT'] ?? 8080)
})
process.send?.({ ready: true, url })
