// Package pair reads what models write and decides which questions and answers are
// good enough to train on. Every refusal has a Reason. Safe for concurrent use, save
// for a Set.
package pair
