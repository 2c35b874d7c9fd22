package ort

// Narrow takes operators of the narrower vectors where there are wider ones.
func Narrow(o Options) Options {
	o.narrow = true
	return o
}

// PlainArgMax is ArgMax without vectors.
var PlainArgMax = argMax
