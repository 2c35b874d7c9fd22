package main

import (
	"context"
	"fmt"
	"os"

	"github.com/clara-suite/clara/services/trainer/torch/internal/golden"
)

func main() {
	ok := true
	for _, d := range os.Args[2:] {
		r, err := golden.Verify(context.Background(), d)
		if err != nil { fmt.Println(err); os.Exit(1) }
		for _, f := range r.Figures { if f.Status == "failed" { fmt.Printf("%+v\n", f); ok = false } }
		fmt.Println(d, r.Passed, r.Failed, r.Skipped)
	}
	fmt.Println(ok)
}
