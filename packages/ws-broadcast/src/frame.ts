/**
 * One message of the server as it goes over the wire: the header of an unmasked text frame (RFC 6455 §5.2)
 * and the JSON, in one buffer that every socket of every channel member shares.
 */
export class Frame {
  /** Header and payload. */
  readonly bytes: Buffer
  readonly #header: number

  constructor(json: string | Buffer) {
    const length = typeof json === 'string' ? Buffer.byteLength(json) : json.length
    this.#header = length < 126 ? 2 : length < 65_536 ? 4 : 10
    const bytes = Buffer.allocUnsafe(this.#header + length)
    bytes[0] = 0x81
    if (this.#header === 2) {
      bytes[1] = length
    } else if (this.#header === 4) {
      bytes[1] = 126
      bytes.writeUInt16BE(length, 2)
    } else {
      bytes[1] = 127
      bytes.writeUIntBE(0, 2, 2)
      bytes.writeUIntBE(length, 4, 6)
    }
    if (typeof json === 'string') bytes.write(json, this.#header)
    else json.copy(bytes, this.#header)
    this.bytes = bytes
  }

  /** The JSON alone, in the same memory. */
  get body(): Buffer {
    return this.bytes.subarray(this.#header)
  }
}

/** A frame made from a value. */
export function jsonFrame(value: object): Frame {
  return new Frame(JSON.stringify(value))
}
