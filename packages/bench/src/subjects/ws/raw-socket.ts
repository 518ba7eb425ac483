import { randomBytes } from 'node:crypto'
import { connect, type OnReadOpts, type Socket } from 'node:net'

/** Empty, and masked with zeros. */
const PONG = Buffer.from([0x8a, 0x80, 0, 0, 0, 0])

const NOTHING = Buffer.alloc(0)

/** Every read of every socket goes here; it is looked at before the next one. */
const READ = Buffer.allocUnsafe(65_536)

/**
 * A WebSocket client that does next to nothing: it counts text frames by their headers and hands their bytes
 * on only where somebody wants to look. All sockets read into one buffer, past Node's streams: with a client library,
 * or a stream for each socket, the load would be what is measured.
 */
export class RawSocket {
  readonly socket: Socket
  /** Text frames so far but for the subject's pings. */
  frames = 0
  /** Called with each text frame; undefined: frames are only counted. */
  onText: ((text: string) => void) | undefined
  /** Called after each read that brought frames. */
  onFrames: (() => void) | undefined
  /** The response to the upgrade as far as it is here; undefined once it is complete. */
  #head: Buffer | undefined = NOTHING
  #onHead: ((head: string) => void) | undefined
  #rest: Buffer | undefined

  private constructor(
    { hostname, port }: URL,
    private readonly pingLength: number
  ) {
    const onread: OnReadOpts = {
      buffer: READ,
      callback: (length, buffer) => {
        const chunk = (buffer as Buffer).subarray(0, length)
        if (this.#head) this.#readHead(chunk)
        else this.#read(chunk)
        return true
      }
    }
    this.socket = connect({ port: Number(port), host: hostname, noDelay: true, onread })
  }

  /** @param ping the text by which the subject pings in the midst of its messages; no message has its length */
  static open(url: string, path: string, ping = ''): Promise<RawSocket> {
    const target = new URL(url)
    return new Promise((resolve, reject) => {
      const raw = new RawSocket(target, ping.length)
      raw.socket.on('error', reject)
      raw.#onHead = (head) => {
        const status = head.slice(0, 12)
        if (status === 'HTTP/1.1 101') resolve(raw)
        else reject(new Error(`the upgrade was answered with ${status}`))
      }
      raw.socket.write(
        `GET ${path} HTTP/1.1\r\nHost: ${target.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
          `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\nSec-WebSocket-Version: 13\r\n\r\n`
      )
    })
  }

  /** One masked text frame of at most 65,535 bytes. */
  send(text: string): void {
    const payload = Buffer.from(text)
    const long = payload.length > 125
    const header = Buffer.alloc(long ? 8 : 6)
    header[0] = 0x81
    header[1] = 0x80 | (long ? 126 : payload.length)
    if (long) header.writeUInt16BE(payload.length, 2)
    // A mask of zeros leaves the payload as it is.
    this.socket.write(Buffer.concat([header, payload]))
  }

  close(): void {
    this.socket.destroy()
  }

  #readHead(chunk: Buffer): void {
    this.#head = Buffer.concat([this.#head!, chunk])
    const end = this.#head.indexOf('\r\n\r\n')
    if (end === -1) return
    const rest = this.#head.subarray(end + 4)
    this.#onHead?.(this.#head.toString('latin1', 0, end))
    this.#head = undefined
    if (rest.length === 0) return
    this.#rest = rest
    // After the caller has had its turn to listen.
    setImmediate(() => this.#read(NOTHING))
  }

  /** Frames that came in one read, in memory that the next read overwrites. */
  #read(chunk: Buffer): void {
    const data = this.#rest ? Buffer.concat([this.#rest, chunk]) : chunk
    let at = 0
    let counted = false
    while (at + 2 <= data.length) {
      let length = data[at + 1]! & 0x7f
      let header = 2
      if (length === 126) {
        if (at + 4 > data.length) break
        length = data.readUInt16BE(at + 2)
        header = 4
      }
      const end = at + header + length
      if (end > data.length) break
      if ((data[at]! & 0x0f) === 1) {
        if (length !== this.pingLength) {
          this.frames += 1
          counted = true
        }
        this.onText?.(data.toString('utf8', at + header, end))
      }
      // Who does not answer pings is sent away.
      if ((data[at]! & 0x0f) === 9) this.socket.write(PONG)
      at = end
    }
    this.#rest = at < data.length ? Buffer.from(data.subarray(at)) : undefined
    if (counted) this.onFrames?.()
  }
}
