import { type Duration, optionReader } from '@flotilla/core'
import { ERR_OPTION } from '../errors.js'
import type { LoginChoices } from '../lifecycle/session-lifecycle.js'
import { MAX_TIMEOUT, type Settings } from '../options.js'

/** What a login decides for its session alone. Each login decides anew: what it leaves out is as in the plugin's options. */
export interface LoginOptions {
  /** Shown in the list of the user's sessions, such as the name of a device. */
  label?: string
  /** The session ends if it is not used for this long, instead of the option of that name. */
  idleTimeout?: Duration
  /** The session ends this long after the login, instead of the option of that name. */
  absoluteTimeout?: Duration
  /** Whether the cookie outlives the browser ("remember me"), instead of `cookie.persistent`. */
  persistent?: boolean
}

const TIMEOUT = { default: undefined, min: 1_000, max: MAX_TIMEOUT }

/**
 * @param caller the method, for the message
 * @throws FLOTILLA_SESSION_ERR_OPTION naming the option
 */
export function readLogin(caller: string, options: LoginOptions, settings: Settings): LoginChoices {
  const read = optionReader(`@flotilla/session: ${caller}`, options, ERR_OPTION)
  const label = read.raw('label')
  if (label !== undefined && typeof label !== 'string') read.fail('label', 'a string')
  const idleTimeout = read.duration('idleTimeout', TIMEOUT)
  const absoluteTimeout = read.duration('absoluteTimeout', TIMEOUT)
  const persistent = read.boolean('persistent', undefined)
  read.done()
  const longest = absoluteTimeout ?? settings.absoluteTimeout
  if (idleTimeout !== undefined && idleTimeout > longest)
    read.fail('idleTimeout', `no longer than absoluteTimeout, which is ${longest} ms`)
  return { label: (label as string | undefined) || undefined, idleTimeout, absoluteTimeout, persistent }
}
