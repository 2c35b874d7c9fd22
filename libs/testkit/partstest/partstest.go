// Package partstest finds what tests need beside the code: the reference's golden models, and the large parts that
// `make deps` fetches. For tests only.
package partstest

import (
	"os"
	"testing"
)

// Golden returns the folder of golden folders, which CLARA_GOLDEN names. Without it the test is skipped, and `make test`
// says at its end that the golden checks were not run.
func Golden(t testing.TB) string {
	t.Helper()
	root := os.Getenv("CLARA_GOLDEN")
	if root == "" {
		t.Skip("NOT RUN: the checks against the reference's golden models; set CLARA_GOLDEN to their folder")
	}
	return root
}

// Fetched ends a test whose part is not in the cache: err says what is missing, nil that it is there. Where CLARA_PARTS
// is "required" (`make test` fetches the parts first and sets it) that is a failure; a plain `go test` skips.
func Fetched(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("CLARA_PARTS") == "required" {
		t.Fatalf("a part that make deps fetches is missing: %v", err)
	}
	t.Skipf("NOT RUN: a part is missing, make deps fetches it: %v", err)
}
