import { http } from '../harness/measures.js'
import { defineSuite } from '../harness/suite.js'

export default defineSuite({
  name: 'health',
  title: 'Probes',
  servers: ['redis'],
  subjects: new URL('../subjects/health.js', import.meta.url),
  cases: [
    {
      name: 'probe',
      title: 'GET /health, a few fields of JSON, beside a static route with the same body',
      unit: 'req/s',
      subjects: ['flotilla', 'bare', 'fastify-under-pressure', 'godaddy-terminus'],
      measure: http({ plan: () => ({ requests: [{ path: '/health', expect: { includes: '"' } }] }) })
    },
    {
      name: 'request-overhead',
      title:
        'GET / of a route that does nothing, with everything on: header, overload, fleet, agent, worker, metrics',
      unit: 'req/s',
      subjects: ['flotilla', 'bare', 'fastify-under-pressure', 'godaddy-terminus'],
      measure: http({ plan: () => ({ requests: [{ path: '/', expect: { body: '{"ok":true}' } }] }) })
    }
  ]
})
