import type { LoginChoices } from '../lifecycle/session-lifecycle.js'

/** What a login decides. */
export interface LoginOptions {
  /** Shown in the list of the user's sessions, such as the name of a device. */
  label?: string
}

export function readLogin({ label }: LoginOptions): LoginChoices {
  return { label, idleTimeout: undefined, absoluteTimeout: undefined, persistent: undefined }
}
