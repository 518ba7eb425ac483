import type { CookieSerializeOptions } from '@fastify/cookie'
import { SessionFields } from '../store/session-fields.js'
import type { SessionRecord } from '../store/session-records.js'
import type { SessionToken } from '../store/token.js'
import { KeyedQueue } from './keyed-queue.js'

/**
 * `lazy`: not asked for yet. `none`: no session; the first write opens one. `live`: in the store.
 * `ended`: ended by another request while it was in use; what is written goes nowhere. `degraded`: the store could not be asked;
 * empty and read-only.
 */
export type Phase = 'lazy' | 'none' | 'live' | 'ended' | 'degraded'

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
  /** As `request.protocol`. */
  readonly protocol?: string
  readonly headers: { readonly 'user-agent'?: string | undefined }
}

/** What the response waits for: see `request/operations.ts`. */
export interface PendingOperations {
  readonly open: boolean
  begin<T>(name: string, run: () => Promise<T>): Promise<T>
  ended(): Promise<void>
}

/**
 * One session as one request (or one caller outside a request) sees it.
 *
 *     lazy ──load──► none ◄──► live ──ended by another request──► ended
 *                     └──────────┴──the store cannot be asked──► degraded
 *
 * While `live`, `record` says where the session is. Its key never moves; `token` is what the browser is to have, and changes with a renewal.
 */
export class SessionState {
  phase: Phase
  /** From a cookie of ours; says nothing about whether that session still exists. */
  readonly presented: SessionToken | undefined
  readonly #source: VisitorSource | undefined
  #fields: SessionFields | undefined
  record: SessionRecord | undefined
  /** `undefined` also if another request renewed the session and its token is not known here. */
  token: SessionToken | undefined
  userId: string | undefined
  /** The store's time of the last write of this request, or 0. */
  writtenAt = 0
  /** A load on demand under way: all callers wait for the same one, which is not over before the data is validated. */
  loading: Promise<void> | undefined
  /** What the response does with the browser's cookie. */
  cookie: 'keep' | 'set' | 'clear' = 'keep'
  /** The presented token opens nothing any more: the cookie can go, unless the browser is being given another one. */
  stale = false
  cookieOptions: CookieSerializeOptions | undefined
  /** Milliseconds, of this response's cookie. */
  cookieMaxAge: number | undefined
  cookiePersistent: boolean | undefined
  /** Logged out in this request: the response also clears the site's data, if configured. */
  loggedOut = false
  /** Saving failed and the error response is under way: do not try again. */
  failed = false
  /** Headers of an error, for error handlers that do not look at `error.headers`. */
  refusal: Readonly<Record<string, string>> | undefined
  /**
   * `ahead`: it saves what is written, and waits for what is under way. `past`: it is on its way, and what is written
   * now needs an explicit save. `none`: this is no request's session.
   */
  response: 'none' | 'ahead' | 'past' = 'none'
  /** Begun while the response is ahead. */
  operations: PendingOperations | undefined
  #updates: KeyedQueue | undefined
  /** A token handed out before the session exists in the store. */
  #reserved: SessionToken | undefined

  constructor(phase: Phase, presented: SessionToken | undefined, source?: VisitorSource) {
    this.phase = phase
    this.presented = presented
    this.#source = source
  }

  /** Notes which headers the response needs. @returns the error, to be thrown */
  refuse(error: unknown): unknown {
    this.refusal = (error as { headers?: Readonly<Record<string, string>> }).headers
    return error
  }

  get visitor(): Visitor {
    return { ip: this.#source?.ip, userAgent: this.#source?.headers['user-agent'] }
  }

  /** Of the request; `undefined` outside of one. */
  get protocol(): string | undefined {
    return this.#source?.protocol
  }

  get fields(): SessionFields {
    return (this.#fields ??= new SessionFields({}))
  }

  set fields(fields: SessionFields) {
    this.#fields = fields
  }

  /** Orders the updates of a session that is not in the store yet. */
  get updates(): KeyedQueue {
    return (this.#updates ??= new KeyedQueue())
  }

  /** False if no data was loaded, read or written: then nothing can have changed. */
  get hasFields(): boolean {
    return this.#fields !== undefined
  }

  /** The token that a new session will have, so that its reference is known before it is saved. */
  reserve(issue: () => SessionToken): SessionToken {
    return (this.#reserved ??= issue())
  }

  /** A session that was read or has just been written. */
  live(record: SessionRecord, fields: SessionFields): void {
    this.phase = 'live'
    this.record = record
    this.token = record.token
    this.userId = record.userId
    this.fields = fields
    this.#reserved = undefined
  }

  /** Back to nothing: ended here, unreadable, or never found. */
  none(): void {
    this.phase = 'none'
    this.#fields = undefined
    this.record = undefined
    this.token = undefined
    this.userId = undefined
    this.writtenAt = 0
    this.#reserved = undefined
  }

  /** Ended by another request: no session begins in its place, for by now the browser may have one of a parallel login. */
  ended(): void {
    this.none()
    this.phase = 'ended'
    this.cookie = 'keep'
  }
}
