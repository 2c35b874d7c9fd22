package cli_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
	"github.com/clara-suite/clara/services/clara/internal/cli"
)

// busyOnce refuses the first question after its passages were found, and answers the second.
type busyOnce struct {
	generatorv1connect.UnimplementedGeneratorServiceHandler
	asked atomic.Int32
}

func (b *busyOnce) Answer(_ context.Context, _ *generatorv1.AnswerRequest, out *connect.ServerStream[generatorv1.AnswerResponse]) error {
	n := b.asked.Add(1)
	if err := out.Send(&generatorv1.AnswerResponse{Part: &generatorv1.AnswerResponse_Retrieved{Retrieved: &generatorv1.Retrieved{Note: "found"}}}); err != nil {
		return err
	}
	if n == 1 {
		return connect.NewError(connect.CodeResourceExhausted, errors.New("one request is running"))
	}
	if err := out.Send(&generatorv1.AnswerResponse{Part: &generatorv1.AnswerResponse_Piece{Piece: &generatorv1.Piece{Text: "Yes."}}}); err != nil {
		return err
	}
	return out.Send(&generatorv1.AnswerResponse{Part: &generatorv1.AnswerResponse_Done{Done: &generatorv1.Done{Answer: "Yes.", FinishReason: "stop"}}})
}

// TestAskWaitsForABusySuite: a question that is asked again is told once, by people's form and by that of programs.
func TestAskWaitsForABusySuite(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		mux := http.NewServeMux()
		mux.Handle(generatorv1connect.NewGeneratorServiceHandler(new(busyOnce)))
		server := httptest.NewUnstartedServer(mux)
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
		defer server.Close()
		var out, errs strings.Builder
		env := &cli.Env{Out: &out, Err: &errs}
		env.JSON = asJSON
		env.GeneratorAddr = server.URL
		ask := cli.Ask{Question: []string{"Is it so?"}, Collection: "default", Context: "text", Retrieve: "lexical"}
		require.NoError(t, ask.Run(t.Context(), env))
		assert.Contains(t, errs.String(), "busy; asking again in 1s")
		if !asJSON {
			assert.True(t, strings.HasPrefix(out.String(), "Yes.\n"), out.String())
			continue
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		require.Len(t, lines, 3)
		assert.Contains(t, lines[0], `"retrieved":{`)
		assert.Contains(t, lines[1], `"piece":{`)
		assert.Contains(t, lines[2], `"done":{`)
	}
}
