// @fastify/flash loads the types of @fastify/secure-session if they are installed; they declare `request.session` as well.
export {}
