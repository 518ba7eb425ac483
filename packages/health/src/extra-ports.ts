import { openAdminPort } from './admin-port.js'
import { openAgentPort } from './agent-port.js'
import { agentReply, type AgentStatus } from './agent-reply.js'
import type { Endpoint } from './endpoints.js'
import type { Identity } from './identity.js'
import type { Settings } from './options.js'
import type { OpenPort } from './port.js'
import { openResponder, type Responder } from './responder/responder.js'

/** The admin port, the agent-check and the worker's ports: those that were asked for. */
export class ExtraPorts {
  readonly numbers: Partial<Record<'admin' | 'agent' | 'worker' | 'workerAgent', number>> = {}
  private readonly open: OpenPort[] = []
  private responder: Responder | undefined

  constructor(private readonly status: () => AgentStatus) {}

  /** @throws FLOTILLA_HEALTH_ERR_PORT; what was opened before is closed again */
  async start(
    { admin, agent, worker }: Settings,
    identity: Identity,
    endpoints: ReadonlyMap<string, Endpoint>
  ): Promise<void> {
    try {
      if (admin) this.numbers.admin = this.keep(await openAdminPort(admin, endpoints))
      if (agent) this.numbers.agent = this.keep(await openAgentPort(agent, () => agentReply(this.status())))
      if (worker) this.keepResponder(await openResponder(worker, identity))
    } catch (error) {
      await this.close()
      throw error
    }
  }

  /** Hands the state to the worker, which cannot ask for it. */
  update(): void {
    this.responder?.update(this.status())
  }

  async close(): Promise<void> {
    await Promise.all(this.open.splice(0).map((one) => one.close()))
  }

  private keepResponder(responder: Responder): void {
    this.responder = responder
    this.numbers.worker = this.keep(responder)
    if (responder.agentPort !== undefined) this.numbers.workerAgent = responder.agentPort
    this.update()
  }

  private keep(opened: OpenPort): number {
    this.open.push(opened)
    return opened.port
  }
}
