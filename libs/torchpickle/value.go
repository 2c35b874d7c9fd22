package torchpickle

import (
	"github.com/clara-suite/clara/libs/tensor"
)

// Dict is a dictionary with text keys, in the order of the file. Values are
// *Dict, tensor.View, List, Tuple, string, int64, float64, bool or nil.
// Entries under other keys are kept in the order but not by name.
type Dict struct {
	keys   []string
	values map[string]any
}

// NewDict returns an empty dictionary.
func NewDict() *Dict { return &Dict{values: map[string]any{}} }

// List is a Python list, Tuple a Python tuple.
type (
	List  struct{ Items []any }
	Tuple []any
)

// Parameter makes Save write a torch.nn.Parameter, without gradient, in place
// of a plain tensor. Reading returns both as tensor.View.
type Parameter struct{ tensor.View }

// Keys returns the keys in order; the slice is the dictionary's own.
func (d *Dict) Keys() []string { return d.keys }

// Len returns the number of keys.
func (d *Dict) Len() int { return len(d.keys) }

// Get returns a value, nil if the key is absent.
func (d *Dict) Get(key string) any { return d.values[key] }

// Set adds or replaces a value. Save writes *Dict, tensor.View and Parameter
// values, strings, int64, float64, bool and nil.
func (d *Dict) Set(key string, value any) {
	if _, ok := d.values[key]; !ok {
		d.keys = append(d.keys, key)
	}
	d.values[key] = value
}

// Tensor returns the tensor under key, named by the key, and false if there is none.
func (d *Dict) Tensor(key string) (tensor.View, bool) {
	v, ok := d.values[key].(tensor.View)
	v.Name = key
	return v, ok
}

// Dict returns the dictionary under key, and false if there is none.
func (d *Dict) Dict(key string) (*Dict, bool) {
	v, ok := d.values[key].(*Dict)
	return v, ok
}
