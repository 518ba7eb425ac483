/** A number of a reply; text where the client was made with `stringNumbers`. */
export type Integer = number | string
