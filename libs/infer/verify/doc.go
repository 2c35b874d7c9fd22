// Package verify compares this suite with a golden folder: a tiny base model, a
// CLaRa checkpoint on it, data, and what the reference implementation computed
// with them. It covers everything that inference needs: tokenizer, prompts and
// labels, memories, query vectors, scores, top-k, logits, greedy answers of
// every entry point (spec clara-model §2 to §6), scores of answers (§8). Figures
// of training are listed as left to `clara-train verify`.
//
// Tolerances are those of the folder's manifest.json; exact figures count mismatches.
package verify
