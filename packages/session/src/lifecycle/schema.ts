import { describeIssues, type StandardSchema } from '@flotilla/core'
import { detail, ERR_INVALID_DATA } from '../errors.js'
import type { SessionFields } from '../store/session-fields.js'
import type { Changes } from '../store/session-store.js'

/** The data type that a schema describes, for `Session<SessionDataOf<typeof schema>>`. */
export type SessionDataOf<Schema extends StandardSchema> = NonNullable<Schema['~standard']['types']>['output']

/**
 * @returns the schema's output
 * @throws FLOTILLA_SESSION_ERR_INVALID_DATA whose cause names the first paths that are wrong
 */
export async function validate(schema: StandardSchema, data: unknown): Promise<Record<string, unknown>> {
  const result = await schema['~standard'].validate(data)
  if (result.issues) throw new ERR_INVALID_DATA(detail(describeIssues(result.issues)))
  return result.value as Record<string, unknown>
}

/**
 * What has to hold before anything of these changes is written.
 * @throws FLOTILLA_SESSION_ERR_TOO_LARGE, FLOTILLA_SESSION_ERR_INVALID_DATA
 */
export async function assertStorable(
  fields: SessionFields,
  changes: Changes,
  { maxSize, schema }: { readonly maxSize: number; readonly schema: StandardSchema | undefined }
): Promise<void> {
  fields.assertSize(changes, maxSize)
  if (schema) await validate(schema, fields.preview(changes))
}
