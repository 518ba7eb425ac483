import type { CookieSerializeOptions } from '@fastify/cookie'
import { createKeyedQueue, type KeyedQueue } from './keyed-queue.js'
import type { Operations } from '../request/operations.js'
import { SessionFields } from '../store/session-fields.js'
import type { Found, Place } from '../store/store.js'
import type { Ticket } from '../store/token.js'

/**
 * `lazy`: not asked for yet. `none`: no session; the first write opens one. `live`: in Redis.
 * `gone`: ended by somebody else while it was in use; what is written goes nowhere. `away`: Redis could not be asked;
 * empty and read-only.
 */
export type Phase = 'lazy' | 'none' | 'live' | 'gone' | 'away'

/** Who is on the other side, for the page of "your devices". */
export interface Visitor {
  /** As `request.ip`. */
  readonly ip: string | undefined
  /** As the header `user-agent`. */
  readonly userAgent: string | undefined
}

/** A request, or what stands for one outside of a request; looked at only at login. */
export interface VisitorSource {
  readonly ip: string | undefined
  readonly headers: { readonly 'user-agent'?: string | undefined }
}

/** One session as one request (or one caller outside a request) sees it. */
export class SessionState {
  phase: Phase
  /** From a cookie of ours; says nothing about whether that session still exists. */
  readonly presented: Ticket | undefined
  readonly #source: VisitorSource | undefined
  #fields: SessionFields | undefined
  found: Found | undefined
  place: Place | undefined
  userId: string | undefined
  /** Redis's time of the last write of this request, or 0. */
  writtenAt = 0
  /** A load on demand under way: whoever asks meanwhile waits for the same one, which is not over before the data is validated. */
  loading: Promise<void> | undefined
  /** What the response is to do with the browser's cookie. */
  cookie: 'keep' | 'set' | 'clear' = 'keep'
  cookieOptions: CookieSerializeOptions | undefined
  /** Logged out in this request: the response also clears the site's data, where configured. */
  loggedOut = false
  /** Saving failed and the error response is under way: do not try again. */
  failed = false
  /** What a refusal of the store told to send, for error handlers that do not look at `error.headers`. */
  refusal: Readonly<Record<string, string>> | undefined
  /**
   * `ahead`: it saves what is written, and waits for what is under way. `past`: it is on its way, and what is written
   * now needs an explicit save. `none`: this is no request's session.
   */
  response: 'none' | 'ahead' | 'past' = 'none'
  /** Begun while the response is ahead. */
  operations: Operations | undefined
  #updates: KeyedQueue | undefined
  /** A ticket handed out before the session exists in Redis. */
  #reserved: Ticket | undefined

  constructor(phase: Phase, presented: Ticket | undefined, source?: VisitorSource) {
    this.phase = phase
    this.presented = presented
    this.#source = source
  }

  /** Notes what a refusal tells the browser. @returns the error, to be thrown */
  refuse(error: unknown): unknown {
    this.refusal = (error as { headers?: Readonly<Record<string, string>> }).headers
    return error
  }

  get visitor(): Visitor {
    return { ip: this.#source?.ip, userAgent: this.#source?.headers['user-agent'] }
  }

  get fields(): SessionFields {
    return (this.#fields ??= new SessionFields({}))
  }

  set fields(fields: SessionFields) {
    this.#fields = fields
  }

  /** Orders the updates of a session that is not in Redis yet. */
  get updates(): KeyedQueue {
    return (this.#updates ??= createKeyedQueue())
  }

  /** False where no data was loaded, read or written: then nothing can have changed. */
  get hasFields(): boolean {
    return this.#fields !== undefined
  }

  /** The ticket a new session will have, so that its reference can be told before it is saved. */
  reserve(issue: () => Ticket): Ticket {
    return (this.#reserved ??= issue())
  }

  /** Takes on a session that was read or has just been written. */
  live(found: Found, fields: SessionFields): void {
    this.phase = 'live'
    this.found = found
    this.place = { ticket: found.ticket, userHash: found.meta.userHash }
    this.userId = found.userId
    this.fields = fields
    this.#reserved = undefined
  }

  /** Back to nothing: ended, dropped, or never found. */
  none(): void {
    this.phase = 'none'
    this.#fields = undefined
    this.found = undefined
    this.place = undefined
    this.userId = undefined
    this.writtenAt = 0
    this.#reserved = undefined
  }

  /** Ended by somebody else: no session begins in its place, for by now the browser may have one of a parallel login. */
  gone(): void {
    this.none()
    this.phase = 'gone'
    this.cookie = 'keep'
  }
}
