import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { parseDuration } from '@flotilla/core'
import health from '@flotilla/health'
import Fastify from 'fastify'
import { test } from 'tap'
import { parse, parseAllDocuments } from 'yaml'
import { DRAIN } from '../src/config.js'

const run = promisify(execFile)
const docker = fileURLToPath(new URL('../../../docker/', import.meta.url))
const kustomize = createRequire(import.meta.url).resolve('kustomize/run.js')

interface Manifest {
  apiVersion: string
  kind: string
  metadata: { name: string; namespace?: string; labels: Record<string, string> }
  spec: Record<string, unknown>
  data?: Record<string, string>
}
type Model = new (data: object) => { validate(): void }

interface Autoscaler {
  minReplicas: number
  metrics: { type: string; pods?: { metric: { name: string } } }[]
}
interface NetworkPolicy {
  ingress: {
    from: { namespaceSelector: { matchLabels: Record<string, string> } }[]
    ports: { port: string }[]
  }[]
}

interface Probe {
  httpGet: { path: string; port: string }
  periodSeconds: number
  timeoutSeconds: number
  failureThreshold: number
}
interface Container {
  image: string
  ports: { name: string; containerPort: number }[]
  lifecycle: { preStop: { exec: { command: string[] } } }
  startupProbe: Probe
  livenessProbe: Probe
  readinessProbe: Probe
  volumeMounts: { name: string; mountPath: string }[]
  securityContext: Record<string, unknown>
  resources: { requests: Record<string, string>; limits: Record<string, string> }
}
interface Pod {
  metadata: { labels: Record<string, string>; annotations: Record<string, string> }
  spec: {
    terminationGracePeriodSeconds: number
    securityContext: Record<string, unknown>
    containers: [Container]
  }
}

async function render(overlay: string): Promise<Manifest[]> {
  const folder = `${docker}kubernetes/overlays/${overlay}`
  const { stdout } = await run(process.execPath, [kustomize, 'build', folder])
  return parseAllDocuments(stdout).map((one) => one.toJS() as Manifest)
}

function find(manifests: Manifest[], kind: string): Manifest {
  const found = manifests.find((one) => one.kind === kind)
  if (!found) throw new Error(`no ${kind} was rendered`)
  return found
}

const podOf = (manifests: Manifest[]): Pod => find(manifests, 'Deployment').spec['template'] as Pod

const preStopMs = (container: Container): number => {
  const [, , script = ''] = container.lifecycle.preStop.exec.command
  return Number(/setTimeout\(\(\) => \{\}, (\d+)\)/.exec(script)?.[1])
}

const ms = (duration: string): number => parseDuration(duration) ?? Number.NaN

for (const overlay of await readdir(`${docker}kubernetes/overlays`)) {
  test(`the ${overlay} overlay`, async (t) => {
    const manifests = await render(overlay)

    await t.test('renders every kind, each valid by its schema', async (t) => {
      t.same(manifests.map((one) => one.kind).sort(), [
        'ConfigMap',
        'Deployment',
        'HorizontalPodAutoscaler',
        'Ingress',
        'Namespace',
        'NetworkPolicy',
        'PodDisruptionBudget',
        'Service',
        'ServiceAccount'
      ])
      for (const manifest of manifests) {
        const models = (await import(`kubernetes-models/${manifest.apiVersion}`)) as Record<string, Model>
        const model = models[manifest.kind]
        if (!model) throw new Error(`no schema for ${manifest.apiVersion} ${manifest.kind}`)
        t.doesNotThrow(() => new model(manifest).validate(), `${manifest.kind} is valid`)
        if (manifest.kind === 'Namespace') continue
        const { name } = find(manifests, 'Namespace').metadata
        t.equal(manifest.metadata.namespace, name, `${manifest.kind} is in the namespace that is made for it`)
      }
    })

    await t.test('the schemas do refuse what is wrong', async (t) => {
      const { Deployment } = (await import('kubernetes-models/apps/v1')) as unknown as Record<string, Model>
      const wrong = structuredClone(find(manifests, 'Deployment'))
      wrong.spec['replicas'] = 'three'
      t.throws(() => new (Deployment as Model)(wrong).validate(), { message: /replicas/ })
    })

    await t.test('probes ask the paths that answer them, faster than they repeat', async (t) => {
      const [container] = podOf(manifests).spec.containers
      const probes = {
        '/health/startup': container.startupProbe,
        '/health/live': container.livenessProbe,
        '/health/ready': container.readinessProbe
      }
      for (const [path, probe] of Object.entries(probes)) {
        t.equal(probe.httpGet.path, path)
        t.ok(container.ports.some((port) => port.name === probe.httpGet.port))
        t.ok(probe.timeoutSeconds < probe.periodSeconds || probe.timeoutSeconds === 1)
      }
    })

    await t.test('nobody cuts a drain short', async (t) => {
      const { terminationGracePeriodSeconds, containers } = podOf(manifests).spec
      const [container] = containers
      const preStop = preStopMs(container)
      const { periodSeconds, failureThreshold } = container.readinessProbe
      t.ok(preStop > 0, 'requests that are on their way find the instance still serving')
      t.ok(terminationGracePeriodSeconds * 1_000 > preStop + ms(DRAIN.timeout), 'the kubelet waits longer')
      t.ok(preStop + ms(DRAIN.delay) > periodSeconds * failureThreshold * 1_000, 'readiness is seen to fall')
    })

    await t.test('pods run without root, on a read-only file system, as the version they are', async (t) => {
      const pod = podOf(manifests)
      const [container] = pod.spec.containers
      t.equal(pod.spec.securityContext['runAsNonRoot'], true)
      t.equal(container.securityContext['readOnlyRootFilesystem'], true)
      t.equal(container.securityContext['allowPrivilegeEscalation'], false)
      t.ok(container.resources.requests['memory'] && container.resources.limits['memory'])
      const version = pod.metadata.labels['app.kubernetes.io/version']
      t.equal(container.image, `registry.example.com/flotilla-demo:${version}`)
      t.equal(find(manifests, 'Deployment').metadata.labels['app.kubernetes.io/version'], version)
    })

    await t.test('what the app reads is mounted, and no secret is in the environment', async (t) => {
      const { data = {} } = find(manifests, 'ConfigMap')
      const [container] = podOf(manifests).spec.containers
      t.equal(Number(data['PORT']), container.ports[0]?.containerPort)
      for (const [name, path] of Object.entries(data)) {
        t.notMatch(name, /SECRET$|PASSWORD|_URL$/)
        if (!name.endsWith('_FILE')) continue
        t.ok(
          container.volumeMounts.some((mount) => path.startsWith(`${mount.mountPath}/`)),
          name
        )
      }
    })

    await t.test('what it scales on is exposed where Prometheus is told to scrape and let in', async (t) => {
      const { metadata, spec } = podOf(manifests)
      const { data = {} } = find(manifests, 'ConfigMap')
      const admin = spec.containers[0].ports.find((port) => port.name === 'admin')
      t.equal(metadata.annotations['prometheus.io/port'], String(admin?.containerPort))
      t.equal(data['ADMIN_PORT'], String(admin?.containerPort))

      const { ingress } = find(manifests, 'NetworkPolicy').spec as unknown as NetworkPolicy
      const callers = ingress.map(({ from, ports }) => [
        from.map(({ namespaceSelector }) => namespaceSelector.matchLabels['kubernetes.io/metadata.name']),
        ports.map(({ port }) => port)
      ])
      t.same(callers, [
        [['ingress-nginx'], ['http']],
        [['monitoring'], ['admin']]
      ])

      // As the app registers it; the fleet registry alone needs servers.
      const app = Fastify()
      t.teardown(() => app.close())
      await app.register(health, {
        metrics: true,
        fleet: false,
        drain: false,
        admin: { port: 0, host: '127.0.0.1' }
      })
      await app.ready()
      const path = String(metadata.annotations['prometheus.io/path'])
      const scraped = await fetch(`http://127.0.0.1:${app.health.ports.admin}${path}`)
      const exposed = new Set((await scraped.text()).match(/^[a-z]\w+/gm))
      const { metrics } = find(manifests, 'HorizontalPodAutoscaler').spec as unknown as Autoscaler
      const asked = metrics.flatMap(({ pods }) => pods?.metric.name ?? [])
      t.ok(asked.length > 0)
      for (const name of asked) t.ok(exposed.has(name), name)
    })

    await t.test('selectors agree, and scaling never goes below what may be missing', async (t) => {
      const { labels } = podOf(manifests).metadata
      const selectors = [
        find(manifests, 'Service').spec['selector'],
        (find(manifests, 'PodDisruptionBudget').spec['selector'] as { matchLabels: unknown }).matchLabels,
        (find(manifests, 'NetworkPolicy').spec['podSelector'] as { matchLabels: unknown }).matchLabels
      ]
      for (const selector of selectors) t.hasStrict(labels, selector)
      const { minReplicas } = find(manifests, 'HorizontalPodAutoscaler').spec as unknown as Autoscaler
      t.ok(minReplicas >= 2)
    })

    await t.test(
      'how many run is the autoscaler’s alone: an apply does not take pods from a busy fleet',
      async (t) => {
        const deployment = find(manifests, 'Deployment')
        const target = find(manifests, 'HorizontalPodAutoscaler').spec['scaleTargetRef']
        t.match(target, { kind: 'Deployment', name: deployment.metadata.name })
        t.notOk('replicas' in deployment.spec)
      }
    )
  })
}

test('compose and Swarm wait longer than the drain takes', async (t) => {
  for (const file of ['compose.yaml', 'stack.yaml']) {
    const { services } = parse(await readFile(docker + file, 'utf8'), { merge: true }) as {
      services: { app: { stop_grace_period: string } }
    }
    t.ok(ms(services.app.stop_grace_period) > ms(DRAIN.timeout), file)
  }
})

test('no service of compose or Swarm gives up after a number of crashes, and every image has a version', async (t) => {
  interface Service {
    image?: string
    restart?: string
    deploy?: { restart_policy?: { max_attempts?: number } }
  }
  const files = (await readdir(docker)).filter((file) => /^(compose|stack).*\.yaml$/.test(file))
  t.ok(files.length >= 5, files.join())
  for (const file of files) {
    const { services } = parse(await readFile(docker + file, 'utf8'), { merge: true }) as {
      services: Record<string, Service>
    }
    for (const [name, { image, restart, deploy }] of Object.entries(services)) {
      t.notMatch(restart ?? '', 'on-failure:', `${file}: ${name}`)
      t.equal(deploy?.restart_policy?.max_attempts, undefined, `${file}: ${name}`)
      if (image !== undefined)
        t.match(image, /:(\d|\$\{|bookworm)|^\$\{.*:dev\}$/, `${file}: ${name} runs ${image}`)
    }
  }
})
