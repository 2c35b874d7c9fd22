package lifecycle_test

import (
	"context"
	"fmt"

	"github.com/clara-suite/clara/libs/lifecycle"
)

func ExampleRun() {
	ctx, stop := context.WithCancel(context.Background())
	say := func(text string) func(context.Context) error {
		return func(context.Context) error { fmt.Println(text); return nil }
	}
	err := lifecycle.Run(ctx, lifecycle.Options{},
		lifecycle.Unit{Name: "events", Start: say("connect"), Stop: say("disconnect")},
		lifecycle.Unit{Name: "server", Start: say("listen"), Drain: say("end calls"), Run: func(context.Context) error {
			stop() // something asks to stop
			return nil
		}},
	)
	fmt.Println(err)
	// Output:
	// connect
	// listen
	// end calls
	// disconnect
	// <nil>
}
