// Package torchpickle reads and writes the zip files of torch.save as far as
// checkpoints need them: nested dictionaries, lists and scalars with tensors
// in them (spec clara-model §7).
//
// A pickle is a program. This reader knows a short list of what such files
// contain (dict, OrderedDict, torch's tensor rebuilders and storage types) and
// builds its own values for these; it never calls anything, and every other
// opcode, name or call is refused with its name. Work and memory are bounded by
// the file's own size: entries must be stored (as torch.save writes them), so
// there is nothing to inflate.
//
// Tensors come out contiguous, row-major, over the bytes of the file; tensors
// that share a storage share bytes, so they must not be written.
//
// Errors: NotFound, Corrupt (broken zip or pickle), Unsupported (anything not
// on the list, the format from before torch 1.6, big-endian files). Files
// written by Save are read by torch.load(weights_only=True).
package torchpickle
