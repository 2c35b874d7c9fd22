package index_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/index/embedded"
)

func Example() {
	dir, err := os.MkdirTemp("", "index")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	server, err := embedded.Open(embedded.Options{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close() //nolint:errcheck // nothing left to do about it
	ctx := context.Background()
	client, err := index.Open(ctx, index.Options{Dial: server.Dial})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // nothing left to do about it

	name := index.Name("handbook", "9f2c", true)
	x, err := client.Ensure(ctx, name, index.Schema{M: 1, H: 2})
	if err != nil {
		log.Fatal(err)
	}
	err = x.Upsert(ctx, []index.Point{
		{Passage: clara.Passage{Collection: "handbook", Document: "travel", Text: "Trips are booked two weeks ahead."}, Memory: clara.Memory{M: 1, H: 2, Data: []float32{1, 0}}},
		{Passage: clara.Passage{Collection: "handbook", Document: "leave", Text: "Holidays are asked for in spring."}, Memory: clara.Memory{M: 1, H: 2, Data: []float32{0, 5}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Alias(ctx, "handbook", name); err != nil {
		log.Fatal(err)
	}

	x, err = client.Index(ctx, "handbook")
	if err != nil {
		log.Fatal(err)
	}
	question := clara.Memory{M: 1, H: 2, Data: []float32{3, 4}}
	found, err := x.SearchMemory(ctx, question, 2, index.Filter{Collection: "handbook"})
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range found {
		fmt.Printf("%.2f %s\n", c.Score, c.Passage.Document)
	}
	found, err = x.SearchText(ctx, "when to book a trip", 1, index.Filter{Collection: "handbook"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(x.Name(), found[0].Passage.Document)
	// Output:
	// 0.80 leave
	// 0.60 travel
	// handbook.9f2c travel
}
