// Package grammar holds what a model writes to a JSON schema: before each token
// it says which tokens of a vocabulary may come next.
//
// A Grammar is a schema as a machine over bytes: a program with calls, whose sets
// of threads become states when they are first reached, each with its next state
// by byte, so that a text costs one step a byte however many threads it has. A
// Vocabulary is the tokens of a tokenizer as a tree of their bytes; the tokens that
// a state allows are found by walking tree and machine together, and kept. Within a
// string, where nearly all tokens are allowed, whole branches are taken at once. A
// Matcher is one text on its way.
//
// Of JSON Schema: type (one or several), properties, required, additionalProperties,
// items, prefixItems, minItems, maxItems, minLength, maxLength, enum, const, anyOf
// (oneOf is taken as anyOf), allOf of one, $ref within the schema, recursion
// included. Annotations are ignored, format among them, as the standard has it; what
// would hold values back and is not done (pattern, minimum, ..) is refused by name.
// What is written is in a narrower form than JSON allows: keys in the schema's order,
// none that it does not name where it names any, numbers of at most 15 digits on
// either side of the point, little white space, and no deeper than 64 levels.
//
// Errors: Invalid for a schema, with the place in it, and where no token can go on:
// the schema has no value that ends. Safe for concurrent use, save for a Matcher.
package grammar
