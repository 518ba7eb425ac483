import type { Visitor } from '../lifecycle/session-state.js'
import type { Cipher } from '../store/cipher.js'
import type { Owner } from '../store/keys.js'

/** What a page of "your devices" shows of a session besides its times. */
export interface Device extends Visitor {
  readonly label: string | undefined
}

const UNKNOWN: Device = { ip: undefined, userAgent: undefined, label: undefined }

// Browsers send up to some hundred characters; a client may send anything.
const LONGEST = 300

/** Texts of the devices hash. */
export class Devices {
  readonly #cipher: Cipher | undefined

  /** @param cipher with `encrypt`: under a key of the user, so that the page can be shown from any of their sessions */
  constructor(cipher: Cipher | undefined) {
    this.#cipher = cipher
  }

  write(owner: Owner, ref: string, { ip, userAgent }: Visitor, label: string | undefined): string {
    const text = JSON.stringify({
      ip,
      userAgent: userAgent?.slice(0, LONGEST),
      label: label?.slice(0, LONGEST)
    })
    return this.#cipher ? this.#cipher.seal(owner.userHash, bound(owner, ref), text) : text
  }

  /** Without details if the text cannot be read; the session itself is not affected. */
  read(owner: Owner, ref: string, text: string): Device {
    try {
      const json = this.#cipher
        ? this.#cipher.open(owner.userHash, bound(owner, ref), text).toString('utf8')
        : text
      return deviceOf(JSON.parse(json))
    } catch {
      return UNKNOWN
    }
  }
}

const bound = (owner: Owner, ref: string): string => `device\n${owner.userHash}\n${ref}`

/** What of a value found in Redis is a device's. */
function deviceOf(value: unknown): Device {
  const { ip, userAgent, label } = (value ?? {}) as Record<string, unknown>
  const text = (one: unknown): string | undefined => (typeof one === 'string' ? one : undefined)
  return { ip: text(ip), userAgent: text(userAgent), label: text(label) }
}
