import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { BlockList, isIPv6 } from 'node:net'
import type { DetailsSettings } from './options.js'

const digest = (value: string | Buffer): Buffer => createHash('sha256').update(value).digest()

/**
 * Decides who may see details. Tokens are compared as digests of equal length, every one of them each time,
 * so that neither length nor position of a difference shows in the time taken.
 */
export class Access {
  private readonly tokens: readonly Buffer[]
  private readonly allowed = new BlockList()

  constructor({ token, allow }: DetailsSettings) {
    const tokens = token === undefined ? [] : Array.isArray(token) ? token : [token]
    this.tokens = (tokens as (string | Buffer)[]).map(digest)
    for (const range of allow) {
      const [address = '', bits] = range.split('/')
      const family = isIPv6(address) ? 'ipv6' : 'ipv4'
      if (bits === undefined) this.allowed.addAddress(address, family)
      else this.allowed.addSubnet(address, Number(bits), family)
    }
  }

  /** True where there is a token that a caller could have sent. */
  get byToken(): boolean {
    return this.tokens.length > 0
  }

  permits(request: IncomingMessage): boolean {
    const { authorization } = request.headers
    if (authorization !== undefined && this.tokens.length > 0 && this.knows(authorization)) return true
    return this.allowed.rules.length > 0 && this.isDirect(request) && this.isAllowed(request)
  }

  private knows(authorization: string): boolean {
    const given = digest(/^bearer +(.+)$/i.exec(authorization)?.[1] ?? '')
    let known = false
    for (const token of this.tokens) if (timingSafeEqual(token, given)) known = true
    return known
  }

  private isDirect({ headers }: IncomingMessage): boolean {
    return headers['x-forwarded-for'] === undefined && headers['forwarded'] === undefined
  }

  private isAllowed({ socket }: IncomingMessage): boolean {
    const address = socket.remoteAddress
    if (address === undefined) return false
    return this.allowed.check(address, isIPv6(address) ? 'ipv6' : 'ipv4')
  }
}
