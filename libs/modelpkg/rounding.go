package modelpkg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/onnx/decoder"
	"github.com/clara-suite/clara/libs/quant"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
)

// Rounding is how floats become blocks of 4 bits.
type Rounding string

// The ways.
const (
	RTN  Rounding = "rtn"  // each to the nearest
	GPTQ Rounding = "gptq" // with regard to what the matrix meets in a text (quant.RoundWith)
)

// ParseRounding reads the name of a way; empty is RTN. Errors are Invalid.
func ParseRounding(s string) (Rounding, error) {
	switch r := Rounding(s); r {
	case "":
		return RTN, nil
	case RTN, GPTQ:
		return r, nil
	}
	return "", clara.Errorf(clara.Invalid, "rounding %q: want rtn or gptq", s)
}

// Calibration is a pass through a model's layers, in order, over sequences of embeddings (package infer/calibrate). Weights
// are those of one layer, by Hugging Face names.
type Calibration interface {
	// Grams returns the sum of x x^T [In, In] over what the layer's matrices meet, by decoder.GramOf of a Slot.
	Grams(ctx context.Context, layer int, weights map[string][]float32) (map[string][]float32, error)
	// Advance goes on to the next layer, behind one with these weights.
	Advance(ctx context.Context, layer int, weights map[string][]float32) error
}

const (
	calibrationTokens = 16384 // at most
	calibrationLength = 512   // tokens of a sequence
	calibrationLeast  = 128
)

func (im *importer) checkRounding() error {
	if im.Rounding != GPTQ {
		return nil
	}
	if im.Calibrate == nil {
		return clara.Errorf(clara.Invalid, "rounding gptq needs a calibration")
	}
	if !slices.ContainsFunc(im.Precision.list(), func(p Precision) bool { return p.bits() == 4 }) {
		return clara.Errorf(clara.Invalid, "rounding gptq is for precisions of 4 bits: add --precision generator=int4, or another role's")
	}
	return nil
}

// calibrate rounds the matrices of 4 bits layer by layer: what a layer meets is what the rounded ones before it give. Results
// wait in files, as the weights of a package are written in another order.
func (im *importer) calibrate() (err error) {
	if im.Rounding != GPTQ {
		return nil
	}
	todo, err := im.toRound()
	if err != nil {
		return err
	}
	if len(todo) == 0 {
		return clara.Errorf(clara.Invalid, "rounding gptq: the base has no floats to round to 4 bits, its blocks stay as they are")
	}
	embeddings, T, err := im.calibrationEmbeddings()
	if err != nil {
		return err
	}
	run := im.Calibrate(im.m.Arch, embeddings, T)
	scratch, err := os.MkdirTemp("", "clara-rounding-*")
	if err != nil {
		return clara.Errorf(clara.Unavailable, "make a folder for rounded weights: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }() // open files outlive their names
	for layer := range im.m.Arch.Layers {
		im.begin(fmt.Sprintf("rounding layer %d of %d", layer+1, im.m.Arch.Layers))
		if err := im.roundLayer(run, layer, todo, scratch); err != nil {
			return err
		}
	}
	return nil
}

// toRound returns the stacks that are to be rounded to 4 bits, by name.
func (im *importer) toRound() (map[string]stack, error) {
	todo := map[string]stack{}
	for _, p := range im.Precision.list() {
		if p.bits() != 4 {
			continue
		}
		list, err := im.plan(p)
		if err != nil {
			return nil, err
		}
		for _, s := range list.stacks {
			if s.round == 4 {
				todo[s.name] = s
			}
		}
	}
	return todo, nil
}

// calibrationEmbeddings is the calibration text as sequences of equal length [S, T, H], and T.
func (im *importer) calibrationEmbeddings() ([]float32, int, error) {
	t, err := openTokenizer(im.dir, im.m)
	if err != nil {
		return nil, 0, err
	}
	ids := t.Encode(im.Calibration)
	ids = ids[:min(len(ids), calibrationTokens)]
	if len(ids) < calibrationLeast {
		return nil, 0, clara.Errorf(clara.Invalid, "the calibration text has %d tokens, it takes %d, and some thousands to do well", len(ids), calibrationLeast)
	}
	T := min(len(ids), calibrationLength, im.m.Arch.MaxPositions)
	ids = ids[:len(ids)/T*T]
	table, err := im.src.Tensor(arch.Embedding)
	if err != nil {
		return nil, 0, err
	}
	H := im.m.Arch.Hidden
	x := make([]float32, len(ids)*H)
	for i, id := range ids {
		row := x[i*H : (i+1)*H]
		if err := table.Rows(int(id), int(id)+1).CopyFloat32(row); err != nil {
			return nil, 0, err
		}
		for j := range row {
			row[j] *= float32(im.m.Arch.EmbedScale)
		}
	}
	return x, T, nil
}

// roundLayer rounds what is to be rounded of a layer and takes the pass on to the next.
func (im *importer) roundLayer(run Calibration, layer int, todo map[string]stack, scratch string) error {
	weights := map[string][]float32{}
	prefix := arch.LayerName(layer, "")
	for _, w := range im.m.Arch.Weights() {
		if len(w.Name) <= len(prefix) || w.Name[:len(prefix)] != prefix {
			continue
		}
		v, err := im.src.Tensor(w.Name)
		if err != nil {
			return err
		}
		if weights[w.Name], err = v.Float32(); err != nil {
			return err
		}
	}
	grams, err := run.Grams(im.ctx, layer, weights)
	if err != nil {
		return err
	}
	made := map[string]quant.Matrix{}
	var entries []safetensors.Entry
	for _, slot := range decoder.Adapters(im.m.Arch) {
		if slot.Name[:len(slot.Name)-len(lastPart(slot.Name))] != "layers."+strconv.Itoa(layer)+"." {
			continue
		}
		gram := grams[decoder.GramOf(slot.Name)]
		if lastPart(slot.Name) == "up" {
			gram = grams[decoder.GramOf("layers."+strconv.Itoa(layer)+".gate")]
		}
		names := []string{slot.Name} // of the whole, or of its parts
		for _, part := range slot.Parts {
			names = append(names, part.Name+".weight")
		}
		for _, name := range names {
			s, ok := todo[name]
			if !ok {
				continue
			}
			if made[name], err = im.roundStack(s, weights, gram); err != nil {
				return err
			}
			entries = append(entries, s.entries()...)
		}
	}
	if len(entries) > 0 {
		file := &importer{dir: scratch}
		err := file.stream(strconv.Itoa(layer)+".safetensors", entries, func(name string) (tensor.View, error) { return blockTensor(name, made), nil })
		im.rounded = append(im.rounded, file.files...)
		if err != nil {
			return err
		}
	}
	return run.Advance(im.ctx, layer, weights)
}

// roundStack rounds the weights of a stack and puts what they are then in place of them.
func (im *importer) roundStack(s stack, weights map[string][]float32, gram []float32) (quant.Matrix, error) {
	parts := make([]quant.Matrix, len(s.weights))
	for i, name := range s.weights {
		values := weights[name]
		m, ok, err := quant.RoundWith(im.ctx, values, len(values)/s.in, s.in, gram)
		if err != nil {
			return m, err
		}
		if !ok {
			return m, clara.Errorf(clara.Internal, "weight %s does not fit its blocks", name)
		}
		spread := make([]float32, len(values))
		for n := range m.Out {
			m.Row(spread[n*m.In:(n+1)*m.In], n)
		}
		parts[i], weights[name] = m, spread
	}
	m, ok := quant.Stack(parts...)
	if !ok || m.Out != s.out {
		return m, clara.Errorf(clara.Corrupt, "weights %v are [%d, %d], the architecture says [%d, %d]", s.weights, m.Out, m.In, s.out, s.in)
	}
	return m, nil
}

func (im *importer) dropRounded() {
	for _, f := range im.rounded {
		f.Close()
	}
	im.rounded = nil
}
