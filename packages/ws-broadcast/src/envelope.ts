import { createHash } from 'node:crypto'

/**
 * What travels through Redis pub/sub: one header line for the instances, then the frame's JSON exactly as
 * every socket gets it, so that an instance neither parses nor rebuilds it.
 *
 * `m <offset> <previous offset> <epoch> <conflate key>` a message with history
 * `n <conflate key>` a message without, `p` a presence event
 */
export interface Envelope {
  readonly kind: 'm' | 'n' | 'p'
  readonly offset: string
  readonly previous: string
  readonly epoch: string
  readonly conflateKey: string
  /** The frame's JSON; shares memory with the message it was read from. */
  readonly body: Buffer
}

export function plainEnvelope(kind: 'n' | 'p', conflateKey: string, body: string): string {
  return `${kind}${kind === 'n' ? ` ${conflateKey}` : ''}\n${body}`
}

/** `undefined` for what this version did not write. */
export function readEnvelope(message: Buffer): Envelope | undefined {
  const end = message.indexOf(10)
  if (end < 1) return undefined
  const [kind, ...fields] = message.toString('latin1', 0, end).split(' ')
  const body = message.subarray(end + 1)
  if (kind === 'm' && fields.length === 4) {
    const [offset, previous, epoch, conflateKey] = fields as [string, string, string, string]
    return { kind, offset, previous, epoch, conflateKey, body }
  }
  if (kind === 'n' || kind === 'p') {
    return { kind, offset: '', previous: '', epoch: '', conflateKey: fields[0] ?? '', body }
  }
  return undefined
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
