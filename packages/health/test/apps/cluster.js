/* Two workers of node:cluster on one port. The primary passes SIGTERM on to them. */
import cluster from 'node:cluster'
import health from '@flotilla/health'
import Fastify from 'fastify'

if (cluster.isPrimary) {
  const workers = [cluster.fork(), cluster.fork()]
  let listening = 0
  let stopping = false
  cluster.on('listening', () => {
    listening++
    if (listening === workers.length) process.send({ ready: true })
  })
  cluster.on('exit', (worker, code) => {
    process.stdout.write(`worker ${worker.id} ended with ${code}\n`)
    if (!stopping) cluster.fork()
    else if (Object.keys(cluster.workers).length === 0) process.exit(0)
  })
  process.on('SIGTERM', () => {
    stopping = true
    for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGTERM')
  })
} else {
  const app = Fastify({ forceCloseConnections: false })
  await app.register(health, JSON.parse(process.env.HEALTH))
  app.get('/', async () => ({ pid: process.pid, instance: app.health.instance, ports: app.health.ports }))
  await app.listen({ port: Number(process.env.PORT), host: process.env.HOST })
}
