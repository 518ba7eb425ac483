import type { Cipher } from './cipher.js'
import type { Keys } from './keys.js'
import type { Ticket } from './token.js'

/** How a field's text is stored. */
export interface FieldCodec {
  /** True where what is stored can be read only with the session's id. */
  readonly sealed: boolean
  encode(ticket: Ticket, field: string, text: string): string
  /** @throws where it was not written by `encode` for this session and field */
  decode(ticket: Ticket, field: string, stored: string): string
  /** Bytes of the text that is stored so. */
  sizeOf(stored: string): number
}

export const plainCodec: FieldCodec = {
  sealed: false,
  encode: (_ticket, _field, text) => text,
  decode: (_ticket, _field, stored) => stored,
  sizeOf: (stored) => Buffer.byteLength(stored)
}

/** The id is the key's material and is stored nowhere: without the browser's cookie nobody can read a field. */
export function sealedCodec(cipher: Cipher, keys: Keys): FieldCodec {
  const bound = ({ tag, hash }: Ticket, field: string): string => `${keys.session(tag, hash)}\n${field}`
  return {
    sealed: true,
    encode: (ticket, field, text) => cipher.seal(ticket.id, bound(ticket, field), text),
    decode: (ticket, field, stored) => cipher.open(ticket.id, bound(ticket, field), stored),
    sizeOf: (stored) => cipher.sizeOf(stored)
  }
}
