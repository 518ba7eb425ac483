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

/** A conflate key as the header carries it: without spaces or line ends, at most 200 characters. */
export function encodeConflateKey(key: string | undefined): string {
  return key === undefined ? '' : encodeURIComponent(key).slice(0, 200)
}
