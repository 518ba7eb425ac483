// Stands for the types of @fastify/secure-session, which declare `request.session` as well.
export type None = never
