import type { Cipher } from '../store/cipher.js'
import type { Owner } from '../store/keys.js'
import { isTime } from '../store/meta.js'
import type { Visitor } from '../lifecycle/session-state.js'
import type { Ticket } from '../store/token.js'

/** What a page of "your devices" shows of a session besides its times. */
export interface Device extends Visitor {
  readonly createdAt: number
  readonly label: string | undefined
}

/** Texts of the devices hash: the hash of the session's present id, a space, JSON. */
export interface Devices {
  write(owner: Owner, ticket: Ticket, visitor: Visitor, label: string | undefined): string
  /** `undefined` details where the text cannot be read; the session itself is not affected. */
  read(owner: Owner, ref: string, text: string): { hash: string; device: Partial<Device> }
}

// Browsers send up to some hundred characters; a client may send anything.
const LONGEST = 300

/** @param cipher with `encrypt`: under a key of the user, so that the page can be shown from any of their sessions */
export function createDevices(cipher: Cipher | undefined): Devices {
  const bound = (owner: Owner, ref: string): string => `device\n${owner.userHash}\n${ref}`
  return {
    write(owner, ticket, { ip, userAgent }, label) {
      const text = JSON.stringify({
        createdAt: Date.now(),
        ip,
        userAgent: userAgent?.slice(0, LONGEST),
        label: label?.slice(0, LONGEST)
      })
      return `${ticket.hash} ${cipher ? cipher.seal(owner.userHash, bound(owner, ticket.hash), text) : text}`
    },
    read(owner, ref, text) {
      const space = text.indexOf(' ')
      const hash = space < 0 ? text : text.slice(0, space)
      const rest = text.slice(space + 1)
      try {
        const json = cipher ? cipher.open(owner.userHash, bound(owner, ref), rest) : rest
        return { hash, device: deviceOf(JSON.parse(json)) }
      } catch {
        return { hash, device: {} }
      }
    }
  }
}

/** What of a value found in Redis is a device's. */
function deviceOf(value: unknown): Partial<Device> {
  const { createdAt, ip, userAgent, label } = (value ?? {}) as Record<string, unknown>
  const text = (one: unknown): string | undefined => (typeof one === 'string' ? one : undefined)
  return {
    ...(isTime(createdAt) && { createdAt }),
    ip: text(ip),
    userAgent: text(userAgent),
    label: text(label)
  }
}
