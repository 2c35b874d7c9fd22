package graph

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clara-suite/clara/libs/clara"
)

// Inspect returns the inputs and outputs of a model (a ModelProto), whoever wrote it. Inputs that
// have a value of their own (initializers) are left out. Weights are skipped, not read.
// It returns a Corrupt error for what is not a model.
func Inspect(model []byte) (inputs, outputs []Value, err error) {
	weights := map[string]bool{}
	err = fields(model, func(f protowire.Number, v []byte) error {
		if f != 7 { // ModelProto.graph
			return nil
		}
		return fields(v, func(f protowire.Number, v []byte) error {
			switch f {
			case 5: // GraphProto.initializer
				return fields(v, func(f protowire.Number, v []byte) error {
					if f == 8 {
						weights[string(v)] = true
					}
					return nil
				})
			case 11:
				return readValueInfo(v, &inputs)
			case 12:
				return readValueInfo(v, &outputs)
			}
			return nil
		})
	})
	if err == nil && len(outputs) == 0 {
		err = clara.Errorf(clara.Corrupt, "read model: it has no graph with outputs")
	}
	kept := inputs[:0]
	for _, v := range inputs {
		if !weights[v.name] {
			kept = append(kept, v)
		}
	}
	return kept, outputs, err
}

// fields calls visit for each length-delimited field and passes varints as their bytes.
func fields(b []byte, visit func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		f, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return clara.Errorf(clara.Corrupt, "read model: %w", protowire.ParseError(n))
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(f, kind, b)
		if size < 0 {
			return clara.Errorf(clara.Corrupt, "read model: %w", protowire.ParseError(size))
		}
		value := b[:size]
		if kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(b)
		}
		if kind == protowire.BytesType || kind == protowire.VarintType {
			if err := visit(f, value); err != nil {
				return err
			}
		}
		b = b[size:]
	}
	return nil
}

func readValueInfo(b []byte, into *[]Value) error {
	var v Value
	err := fields(b, func(f protowire.Number, p []byte) error {
		if f == 1 {
			v.name = string(p)
		}
		if f != 2 { // ValueInfoProto.type
			return nil
		}
		return fields(p, func(f protowire.Number, p []byte) error {
			if f != 1 { // TypeProto.tensor_type
				return nil
			}
			return fields(p, func(f protowire.Number, p []byte) error {
				switch f {
				case 1:
					n, _ := protowire.ConsumeVarint(p)
					v.dtype = DType(n)
				case 2:
					return fields(p, func(_ protowire.Number, p []byte) error {
						var d Dim
						err := fields(p, func(f protowire.Number, p []byte) error {
							switch f {
							case 1:
								n, _ := protowire.ConsumeVarint(p)
								d.Size = int64(n)
							case 2:
								d.Name = string(p)
							}
							return nil
						})
						if d.Size <= 0 && d.Name == "" {
							d.Name = "?"
						}
						v.shape = append(v.shape, d)
						return err
					})
				}
				return nil
			})
		})
	})
	*into = append(*into, v)
	return err
}
