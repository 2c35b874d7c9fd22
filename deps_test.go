package clara_test

import (
	"testing"

	"github.com/clara-suite/clara/libs/testkit/deptest"
)

// TestDependencies holds the import rules of the project: one driver has one home, layers point downwards,
// services do not know each other.
func TestDependencies(t *testing.T) {
	home := func(what, reason string, homes ...string) deptest.Rule {
		return deptest.Rule{From: "...", To: what, Direct: true, Except: append(homes, "libs/testkit/..."), Reason: reason}
	}
	deptest.Check(t, []string{"./..."}, []deptest.Rule{
		home("github.com/nats-io/nats.go/...", "libs/events is the only home of the NATS client", "libs/events"),
		home("github.com/nats-io/nats-server/v2/...", "only clara up embeds the NATS server", "services/clara/..."),
		home("github.com/qdrant/go-client/...", "libs/index is the only home of Qdrant's client", "libs/index/..."),
		home("github.com/yalue/onnxruntime_go/...", "libs/infer/ort is the only home of ONNX Runtime", "libs/infer/ort/..."),
		home("gocloud.dev/...", "libs/blob is the only home of object storage", "libs/blob/..."),
		home("github.com/alecthomas/kong/...", "settings are parsed in libs/config and by programs", "libs/config", "libs/app", "services/..."),
		home("go.opentelemetry.io/otel/sdk/...", "libraries use the OpenTelemetry API; the SDK is set up in libs/telemetry only", "libs/telemetry"),
		home("google.golang.org/grpc", "Connect handlers already speak gRPC; grpc-go is for the index's protocol", "libs/index/..."),
		{From: "...", To: "libs/testkit/...", Except: []string{"libs/testkit/..."}, Reason: "testkit is for tests"},
		{From: "libs/...", To: "services/...", Reason: "libraries know no services"},
		{From: "proto/...", To: "libs/...", Reason: "contracts know no code"},
		{From: "libs/clara", To: "github.com/...", Reason: "the domain has no dependencies"},
		{From: "libs/tensor", To: "libs/infer/...", Reason: "tensors are below the engine"},
		{From: "libs/config", To: "libs/rpc", Reason: "libraries of the same layer do not import each other"},
		{From: "libs/lifecycle", To: "libs/telemetry", Reason: "libraries of the same layer do not import each other"},
		{From: "libs/telemetry", To: "libs/config", Reason: "libraries of the same layer do not import each other"},
		{From: "libs/rpc", To: "libs/events/...", Reason: "libraries of the same layer do not import each other"},
		{From: "libs/rpc", To: "libs/config", Reason: "libraries of the same layer do not import each other"},
		{From: "libs/events/...", To: "libs/rpc", Reason: "libraries of the same layer do not import each other"},
		{From: "libs/events/...", To: "libs/blob", Reason: "libraries of the same layer do not import each other"},
		{From: "libs/index/...", To: "libs/events/...", Reason: "libraries of the same layer do not import each other"},
		{From: "libs/blob", To: "libs/events/...", Reason: "libraries of the same layer do not import each other"},
	})
	deptest.Apart(t, "services", []string{"clara"}, "services meet through contracts only; clara up alone mounts them")
}
