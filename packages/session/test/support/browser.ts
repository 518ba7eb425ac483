export interface Answer<Body = Record<string, unknown>> {
  status: number
  body: Body
  headers: Headers
  /** Of this response. */
  setCookie: string[]
}

/** Sends requests to an app and keeps its cookies, as a browser does. */
export class Browser {
  readonly cookies = new Map<string, string>()
  readonly #headers: Record<string, string>

  constructor(
    private readonly urls: string | readonly string[],
    headers: Record<string, string> = {}
  ) {
    this.#headers = headers
  }

  get cookie(): string {
    return [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ')
  }

  set cookie(header: string) {
    this.cookies.clear()
    for (const pair of header.split('; ')) {
      const at = pair.indexOf('=')
      if (at > 0) this.cookies.set(pair.slice(0, at), pair.slice(at + 1))
    }
  }

  /** A second one with the same cookies. */
  clone(): Browser {
    const other = new Browser(this.urls, this.#headers)
    other.cookie = this.cookie
    return other
  }

  get<Body = Record<string, unknown>>(path: string, at = 0): Promise<Answer<Body>> {
    return this.#send<Body>('GET', path, undefined, at)
  }

  post<Body = Record<string, unknown>>(path: string, body: unknown = {}, at = 0): Promise<Answer<Body>> {
    return this.#send<Body>('POST', path, body, at)
  }

  async #send<Body>(method: string, path: string, body: unknown, at: number): Promise<Answer<Body>> {
    const urls = typeof this.urls === 'string' ? [this.urls] : this.urls
    const response = await fetch(urls[at % urls.length] + path, {
      method,
      headers: {
        ...this.#headers,
        ...(this.cookies.size > 0 && { cookie: this.cookie }),
        ...(body !== undefined && { 'content-type': 'application/json' })
      },
      ...(body !== undefined && { body: JSON.stringify(body) })
    })
    const setCookie = response.headers.getSetCookie()
    for (const line of setCookie) {
      const [pair = '', ...attributes] = line.split('; ')
      const name = pair.slice(0, pair.indexOf('='))
      if (attributes.includes('Max-Age=0')) this.cookies.delete(name)
      else this.cookies.set(name, pair.slice(pair.indexOf('=') + 1))
    }
    const text = await response.text()
    let parsed: unknown = text
    try {
      parsed = JSON.parse(text)
    } catch {
      // Not JSON: the text itself.
    }
    return { status: response.status, body: parsed as Body, headers: response.headers, setCookie }
  }
}
