import { randomBytes } from 'node:crypto'
import { connect, type Socket } from 'node:net'

/** Empty, and masked with zeros. */
const PONG = Buffer.from([0x8a, 0x80, 0, 0, 0, 0])

/**
 * A WebSocket client that does next to nothing: it counts text frames by their headers and hands their bytes
 * on only where somebody wants to look. A client library in its place would be what is measured.
 */
export class RawSocket {
  frames = 0
  /** Called with each text frame; undefined: frames are only counted. */
  onText: ((text: string) => void) | undefined
  /** Called after each read that brought frames. */
  onFrames: (() => void) | undefined
  #rest: Buffer | undefined

  private constructor(readonly socket: Socket) {}

  static open(url: string, path: string): Promise<RawSocket> {
    const { hostname, port } = new URL(url)
    return new Promise((resolve, reject) => {
      const socket = connect(Number(port), hostname)
      socket.setNoDelay()
      socket.once('error', reject)
      socket.write(
        `GET ${path} HTTP/1.1\r\nHost: ${hostname}:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
          `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\nSec-WebSocket-Version: 13\r\n\r\n`
      )
      let head = Buffer.alloc(0)
      const onHead = (chunk: Buffer): void => {
        head = Buffer.concat([head, chunk])
        const end = head.indexOf('\r\n\r\n')
        if (end === -1) return
        socket.off('data', onHead)
        const status = head.toString('latin1', 0, 12)
        if (status !== 'HTTP/1.1 101') {
          reject(new Error(`the upgrade was answered with ${status}`))
          return
        }
        const raw = new RawSocket(socket)
        socket.on('data', (data: Buffer) => raw.#read(data))
        socket.on('error', () => undefined)
        resolve(raw)
        const rest = head.subarray(end + 4)
        // After the caller has had its turn to listen.
        if (rest.length > 0) setImmediate(() => raw.#read(rest))
      }
      socket.on('data', onHead)
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
        this.frames += 1
        counted = true
        this.onText?.(data.toString('utf8', at + header, end))
      }
      // Who does not answer pings is sent away.
      if ((data[at]! & 0x0f) === 9) this.socket.write(PONG)
      at = end
    }
    this.#rest = at < data.length ? data.subarray(at) : undefined
    if (counted) this.onFrames?.()
  }
}
