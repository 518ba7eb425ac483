import { createHash } from 'node:crypto'

/**
 * What travels through Redis pub/sub: one header line for the instances, then the frame's JSON exactly as
 * every socket gets it, so that an instance neither parses nor rebuilds it.
 *
 * `m <offset> <previous offset> <epoch> <address>` a message with history
 * `n <address>` a message without, `v <address>` a volatile one, `p` a presence event
 *
 * The address is `<conflate key>@<connection that does not get it>`; both may be missing. An earlier version takes all of it for
 * the conflate key.
 */
export interface Envelope {
  readonly kind: 'm' | 'n' | 'v' | 'p'
  readonly offset: string
  readonly previous: string
  readonly epoch: string
  readonly conflateKey: string
  /** The connection that does not get it. */
  readonly except?: string | undefined
  /** The frame's JSON; shares memory with the message it was read from. */
  readonly body: Buffer
}

export function plainEnvelope(kind: 'n' | 'v' | 'p', address: string, body: string): string {
  return `${kind}${kind === 'p' ? '' : ` ${address}`}\n${body}`
}

/** `undefined` for what this version did not write. */
export function readEnvelope(message: Buffer): Envelope | undefined {
  const end = message.indexOf(10)
  if (end < 1) return undefined
  const [kind, ...fields] = message.toString('latin1', 0, end).split(' ')
  const body = message.subarray(end + 1)
  if (kind === 'm' && fields.length === 4) {
    const [offset, previous, epoch, address] = fields as [string, string, string, string]
    return { kind, offset, previous, epoch, ...readAddress(address), body }
  }
  if (kind === 'n' || kind === 'v' || kind === 'p') {
    return { kind, offset: '', previous: '', epoch: '', ...readAddress(fields[0] ?? ''), body }
  }
  return undefined
}

/** What the header says about who gets a message. */
export function readAddress(address: string): Pick<Envelope, 'conflateKey' | 'except'> {
  // An encoded key has no `@` of its own.
  const at = address.indexOf('@')
  if (at === -1) return { conflateKey: address, except: undefined }
  return { conflateKey: address.slice(0, at), except: address.slice(at + 1) }
}

export function encodeAddress(conflateKey: string | undefined, except: string | undefined): string {
  return encodeConflateKey(conflateKey) + (except === undefined ? '' : `@${except}`)
}

const MAX_CONFLATE_KEY = 200

/** A conflate key as the header carries it: without spaces or line ends, and what would be too long as its digest. */
export function encodeConflateKey(key: string | undefined): string {
  if (key === undefined) return ''
  // As JSON has it, since half a surrogate pair cannot be encoded as it is.
  const encoded = encodeURIComponent(JSON.stringify(key).replaceAll(/^"|"$/g, ''))
  if (encoded.length <= MAX_CONFLATE_KEY) return encoded
  return `#${createHash('sha256').update(encoded).digest('base64url')}`
}
