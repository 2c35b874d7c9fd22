// Package golden compares this program with a golden folder: a tiny base model, a CLaRa checkpoint on it, data, and every
// figure that the reference implementation computed with them. Verify reports each figure against the manifest's tolerance,
// and lists what it does not compare with the reason. Figures under names that end in as_written record mistakes of the
// reference and are not to be met.
package golden
