// Fakellm serves the misbehaving test server of llmtest, to try the data pipeline by hand:
//
//	fakellm -listen 127.0.0.1:8000 -faults ,429,500,truncated,,no_json
package main

import (
	"flag"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/testkit/llmtest"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8000", "address")
	faults := flag.String("faults", "", "faults in turn, comma separated; empty ones are good answers")
	key := flag.String("key", "", "the only key that is accepted")
	noSchema := flag.Bool("no-schema", false, "refuse JSON schemas")
	delay := flag.Duration("delay", 0, "time of a good answer")
	flag.Parse()
	var list []llmtest.Fault
	for _, f := range strings.Split(*faults, ",") {
		list = append(list, llmtest.Fault(f))
	}
	s := &llmtest.Server{Key: *key, Faults: llmtest.Every(list...), NoSchema: *noSchema, Delay: *delay}
	server := &http.Server{Addr: *listen, Handler: s, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}
