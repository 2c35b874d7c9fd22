// Package topk is the differentiable top-k of stage 3 in plain float64 (spec
// clara-model §5): the oracle that graph and torch are compared with.
//
// Inputs are N scores (cosine), k <= N and a temperature tau > 0; outputs are
// the k picks and W [k, N], one-hot in value, with the gradient of a softmax.
// Ties go to the lower index. Functions are pure.
package topk
