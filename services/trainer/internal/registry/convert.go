package registry

import (
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/modelstore"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
)

const prefix = "models/"

// parse returns the package's name in "models/{model}". Errors are Invalid.
func parse(name string) (string, error) {
	model, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", clara.Errorf(clara.Invalid, "model %q: want models/NAME", name)
	}
	return model, modelstore.CheckName(model)
}

// describe is a manifest as a Model, without what the manifest does not say.
func describe(name string, m *modelpkg.Manifest) (*modelv1.Model, error) {
	id, err := m.ID()
	if err != nil {
		return nil, err
	}
	out := &modelv1.Model{
		Name: prefix + name, Family: m.Arch.Family, MemoryTokens: int32(m.M), Hidden: int32(m.H),
		DocMaxLength: int32(m.DocMaxLength), CompressRate: int32(m.CompressRate), GenerationTopK: int32(m.GenerationTopK),
		BaseHash: m.Hashes.Base, TokenizerHash: m.Hashes.Tokenizer, EncoderHash: m.Hashes.Encoder, ReasonerHash: m.Hashes.Reasoner, DecoderHash: m.Hashes.Decoder,
		Parameters: m.Arch.Parameters(), SizeBytes: m.Bytes(), ContextLength: int32(m.Arch.MaxPositions), Digest: id,
	}
	out.Precisions = map[string]string{string(modelpkg.Base): string(m.Precision(modelpkg.Base))}
	for role := range m.Adapters {
		out.Precisions[string(role)] = string(m.Precision(role))
		out.Adapters = append(out.Adapters, string(role))
	}
	slices.Sort(out.Adapters)
	return out, nil
}
