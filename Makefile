# The two commands of the README: `make demo` and `make test`. Everything else is a part of them or for developers.
SHELL := /bin/bash
export CLARA_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/clara
SERVICES := ingest synthesis compressor reranker generator trainer
PROGRAMS := $(addprefix bin/clara-,$(SERVICES)) bin/clara
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/clara-suite/clara/libs/telemetry.Version=$(VERSION)
# The root module alone: services/trainer/torch needs libtorch's headers and has targets of its own.
ROOT := ./...

.PHONY: all
all: build

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

.PHONY: build
build: $(PROGRAMS) ## build clara and the six services into bin/

# Go's own cache decides what is out of date.
.PHONY: $(PROGRAMS)
bin/clara:
	CGO_ENABLED=1 go build -ldflags '$(LDFLAGS)' -o $@ ./services/clara/cmd/clara
$(addprefix bin/clara-,$(SERVICES)): bin/clara-%:
	CGO_ENABLED=1 go build -ldflags '$(LDFLAGS)' -o $@ ./services/$*/cmd/$*

.PHONY: deps
deps: ## fetch ONNX Runtime, the example base model and the OCR models into the shared cache
	@scripts/deps.sh all >/dev/null

.PHONY: deps-torch
deps-torch: ## set up libtorch for training
	@scripts/deps-torch.sh

.PHONY: train-build
train-build: ## build bin/clara-train, the training worker
	@set -e; env=$$(scripts/deps-torch.sh); . "$$env"; cd services/trainer/torch; \
	  go build -tags "$$CLARA_TORCH_TAGS" -ldflags '$(LDFLAGS)' -o ../../../bin/clara-train ./cmd/clara-train

.PHONY: demo
demo: deps build ## start the suite, ingest example/handbook, ask three questions, keep serving (ONCE=1: exit)
	@ONCE=$(ONCE) scripts/demo.sh

.PHONY: up
up: deps build ## start all services in one process
	bin/clara up

.PHONY: test
test: export CLARA_PARTS = required
test: deps test-go test-torch ## run all tests
	@if [ -z "$$CLARA_GOLDEN" ]; then echo "NOT RUN: the checks against the reference's golden models; set CLARA_GOLDEN to their folder"; fi
	@if ! unshare -rm true 2>/dev/null; then echo "NOT RUN: the suite on a full disk; this user may not mount one (unshare -rm)"; fi
	@if [ -z "$$QDRANT_ADDR" ]; then echo "NOT RUN: the index suite on a real Qdrant; see make contract"; fi

.PHONY: test-go
test-go: deps
	go vet $(ROOT)
	go test -timeout 10m $(ROOT)
	go test -race -timeout 10m ./libs/infer/... ./libs/events/... ./libs/rpc/... ./services/ingest ./services/compressor

.PHONY: race
race: deps ## run every test with the race detector
	go test -race -timeout 30m $(ROOT)

.PHONY: test-torch
test-torch: ## test training on libtorch
	@set -e; env=$$(scripts/deps-torch.sh); . "$$env"; cd services/trainer/torch; \
	  go vet ./... && go test -timeout 20m ./...

.PHONY: compose-test
compose-test: deps build ## try the containers on this machine's Docker daemon
	scripts/compose-test.sh

.PHONY: gen
gen: ## generate code from proto/, must leave no diff
	GOWORK=off go tool -modfile=tools/go.mod buf lint
	GOWORK=off go tool -modfile=tools/go.mod buf generate

.PHONY: lint
lint: ## vet, formatting, protos
	go vet $(ROOT)
	@test -z "$$(git ls-files '*.go' | grep -v '^proto/gen/' | xargs gofmt -l | tee /dev/stderr)"
	GOWORK=off go tool -modfile=tools/go.mod buf lint

.PHONY: contract
contract: ## run the index suite on a real Qdrant: make contract QDRANT_ADDR=127.0.0.1:6334
	@test -n "$(QDRANT_ADDR)" || { echo "usage: make contract QDRANT_ADDR=host:6334"; exit 2; }
	QDRANT_ADDR=$(QDRANT_ADDR) go test -count=1 -run Contract ./libs/index/...

KILLS ?= 100
SEED ?= 1
.PHONY: crash
crash: deps ## kill the suite and single services at random while they work: make crash KILLS=100 SEED=1
	CRASH_KILLS=$(KILLS) CRASH_SEED=$(SEED) go test -count=1 -timeout 60m -v -run '^TestCrash$$' ./services/clara/internal/e2e

.PHONY: test-slow
test-slow: deps ## what takes long: 5,000 pages, 200 MB of text, memory over 10,000 passages
	CLARA_SLOW=1 go test -count=1 -timeout 30m -v -run '^Test(BadInput|Memory)$$' ./services/clara/internal/e2e

# Benchmarks print ratios measured in one run. Run them on a quiet machine. CLARA_PEERS_PYTHON is a Python that has
# other engines installed, to be measured beside ours (scripts/bench-peers.py).
PRECISIONS ?= fp32 int8 int4
BENCH_GGUF := $(or $(CLARA_BENCH_MODEL),$(CLARA_CACHE)/models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf)
# peers measures what $(1) says in precisions $(2), the engine among them.
peers = @if [ -n "$$CLARA_PEERS_PYTHON" ]; then "$$CLARA_PEERS_PYTHON" scripts/bench-peers.py $(1) $(BENCH_GGUF) $(2); \
	  else echo "NOT RUN: peers; set CLARA_PEERS_PYTHON to a Python with llama-cpp-python, transformers or onnxruntime-genai"; fi
.PHONY: bench-index bench-events bench-compress bench-generate bench-ttft bench-load bench-tokenizer bench-extract bench-train bench-train-long
bench-train: deps ## training, beside a PyTorch + peft loop of the same steps where CLARA_PEER_PYTHON names its Python; a part: BENCH='-only stage3'
	@set -e; env=$$(scripts/deps-torch.sh); . "$$env"; cd services/trainer/torch; \
	  go run -tags "$$CLARA_TORCH_TAGS" ./bench $(BENCH)
bench-train-long: ## memory of training after 100 and after 1,000 steps
	@set -e; env=$$(scripts/deps-torch.sh); . "$$env"; cd services/trainer/torch; \
	  go test -tags "$$CLARA_TORCH_TAGS" -run '^$$' -bench ThousandSteps -benchtime 1x ./internal/stage
bench-index: ## exact search over 10,000 memories of 9,216 dims, beside a plain read of the bytes
	go test -run '^$$' -bench '^BenchmarkIndex' -benchtime 40x ./libs/index/embedded
bench-events: ## synced events a second, one by one and batched; from an event to a searchable file
	go test -run '^$$' -bench . ./libs/events
	go test -run '^$$' -bench EventToIndexed -benchtime 30x ./services/clara/internal/e2e
bench-compress: deps ## passages compressed a second, beside the machine's multiply-add and GEMM rates, by RPC, and beside peers
	go test -timeout 6m -run '^$$' -bench '^BenchmarkCompress' -benchtime 3x ./libs/infer
	go test -timeout 6m -run '^$$' -bench '^BenchmarkCompressRPC' -benchtime 1x ./services/clara/internal/asktest
	$(call peers,compress,fp32)
bench-generate: deps ## tokens a second of one stream and eight, in each precision, what the suite adds, and beside peers
	@for p in $(PRECISIONS); do echo "== $$p"; \
	  CLARA_BENCH_PRECISION=all=$$p go test -timeout 5m -run '^$$' -bench '^BenchmarkGenerate' -benchtime 2x ./libs/infer || exit 1; done
	go test -timeout 8m -run '^$$' -bench '^BenchmarkOverhead' -benchtime 1x ./services/clara/internal/asktest
	$(call peers,generate,$(PRECISIONS))
bench-ttft: deps ## time to the first token from memories and from the same passages as text
	go test -timeout 8m -run '^$$' -bench '^BenchmarkTTFT' -benchtime 1x ./services/clara/internal/asktest
bench-load: deps ## 200 clients at twice what the machine can do, CLARA_BENCH_LOAD=5m long
	go test -timeout 30m -run '^$$' -bench '^BenchmarkLoad' -benchtime 1x ./services/clara/internal/asktest
bench-tokenizer: ## tokens a second of the tokenizer
	go test -run '^$$' -bench '^BenchmarkEncode' ./libs/tokenizer
bench-extract: ## PDF pages a second, beside bare pdfium
	go test -run '^$$' -bench '^BenchmarkRead' ./services/ingest/internal/pdf

# Fuzz every reader for FUZZTIME each.
FUZZTIME ?= 2m
.PHONY: fuzz
fuzz: ## fuzz every reader (FUZZTIME=2m each)
	@set -e; for pkg in $$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' $(ROOT)); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$pkg/*_test.go 2>/dev/null | cut -c6-); do \
	    echo "== $$f in $$pkg"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$pkg; done; done

.PHONY: clean
clean: ## remove bin/
	rm -rf bin
