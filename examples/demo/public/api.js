/* Every request of the page goes through here, so that it can count them and see who answered. */

const listeners = new Set()

/** Calls `listener({ ok, instance, path, status })` after each request. */
export function onAnswer(listener) {
  listeners.add(listener)
}

/**
 * JSON in, JSON out. Reads are tried again once, as a browser does by itself for a broken connection; a write is not.
 * @throws {ApiError}
 */
export async function api(path, { method = 'GET', body } = {}) {
  const init = { method, headers: {}, cache: 'no-store' }
  if (body !== undefined) {
    init.headers['content-type'] = 'application/json'
    init.body = JSON.stringify(body)
  }
  let response
  try {
    response = await fetch(path, init)
  } catch (error) {
    tell({ ok: false, instance: '', path, status: 0 })
    throw new ApiError(0, `no answer to ${method} ${path}`, error)
  }
  const instance = response.headers.get('x-instance') ?? ''
  // 401 is an answer, and the right one.
  tell({ ok: response.status < 500, instance, path, status: response.status })
  // A balancer that finds no instance answers by itself, in HTML.
  const isJson = response.headers.get('content-type')?.includes('json')
  const parsed = isJson ? await response.json() : undefined
  if (!response.ok)
    throw new ApiError(
      response.status,
      parsed?.message ?? parsed?.error ?? `the balancer answered ${response.status}`
    )
  return parsed
}

class ApiError extends Error {
  constructor(status, message, cause) {
    super(message, { cause })
    this.status = status
  }
}

function tell(answer) {
  for (const listener of listeners) listener(answer)
}
