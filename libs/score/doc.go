// Package score measures answers and retrieval (spec clara-model §8): exact
// match, cover EM ("accuracy"), F1, recall and precision at k, with bootstrap
// confidence intervals.
//
// Reference scores normalise as the reference does: lower case, ASCII
// punctuation and the articles a, an, the removed, white space folded, exactly
// "True" and "False" read as yes and no; tokens are what white space
// separates. Beside them stand scores by characters, where each Chinese,
// Japanese or Korean character is a token and full-width punctuation is
// dropped too.
//
// Of several golds the best counts. A gold that normalises to nothing says
// nothing: it is left out, and a sample without any other gold is counted as
// excluded. All functions are pure.
package score
