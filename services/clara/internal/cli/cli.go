package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"unicode"

	"github.com/rivo/uniseg"
	"golang.org/x/term"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/config"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/job/v1/jobv1connect"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
)

// Services says where the services are. `clara up` and the gateway of docker compose serve all of them at one address.
type Services struct {
	Addr           string        `help:"Address of the suite." env:"CLARA_ADDR" default:"http://127.0.0.1:7400" placeholder:"URL"`
	IngestAddr     string        `help:"Address of ingest, where it differs." env:"CLARA_INGEST_ADDR" placeholder:"URL"`
	CompressorAddr string        `help:"Address of compressor, where it differs." env:"CLARA_COMPRESSOR_ADDR" placeholder:"URL"`
	RerankerAddr   string        `help:"Address of reranker, where it differs." env:"CLARA_RERANKER_ADDR" placeholder:"URL"`
	GeneratorAddr  string        `help:"Address of generator, where it differs." env:"CLARA_GENERATOR_ADDR" placeholder:"URL"`
	TrainerAddr    string        `help:"Address of trainer, where it differs." env:"CLARA_TRAINER_ADDR" placeholder:"URL"`
	Token          config.Secret `help:"Token of the caller." env:"CLARA_TOKEN"`
	TLSCA          string        `help:"Authority of the services' certificates, PEM." name:"tls-ca" env:"CLARA_TLS_CA" placeholder:"FILE"`
	JSON           bool          `help:"Print JSON, one message a line." name:"json"`
}

// Env is what a command runs in.
type Env struct {
	Services
	Out, Err io.Writer
}

// dial returns a client of the service at its own address, or at the suite's.
func (e *Env) dial(own string) (*rpc.Client, error) {
	addr := own
	if addr == "" {
		addr = e.Addr
	}
	return rpc.Dial(addr, rpc.ClientConfig{Token: e.Token.Reveal(), TLSCA: e.TLSCA}, rpc.ClientOptions{})
}

func (e *Env) ingest() (ingestv1connect.IngestServiceClient, error) {
	c, err := e.dial(e.IngestAddr)
	if err != nil {
		return nil, err
	}
	return ingestv1connect.NewIngestServiceClient(c.HTTP, c.URL, c.Options()...), nil
}

func (e *Env) jobs() (jobv1connect.JobServiceClient, error) {
	c, err := e.dial(e.IngestAddr)
	if err != nil {
		return nil, err
	}
	return jobv1connect.NewJobServiceClient(c.HTTP, c.URL, c.Options()...), nil
}

func (e *Env) generator() (generatorv1connect.GeneratorServiceClient, error) {
	c, err := e.dial(e.GeneratorAddr)
	if err != nil {
		return nil, err
	}
	return generatorv1connect.NewGeneratorServiceClient(c.HTTP, c.URL, c.Options()...), nil
}

func (e *Env) models() (modelv1connect.ModelServiceClient, error) {
	c, err := e.dial(e.TrainerAddr)
	if err != nil {
		return nil, err
	}
	return modelv1connect.NewModelServiceClient(c.HTTP, c.URL, c.Options()...), nil
}

// Explain adds the way out to the error of a call that found nobody at the address. Every other error it returns as it is.
func (e *Env) Explain(err error) error {
	var dial *net.OpError
	if !errors.As(err, &dial) || dial.Op != "dial" {
		return err
	}
	return clara.Errorf(clara.Unavailable, "%w; is the suite running there? Start it with clara up, or give its address with --addr", err)
}

// print writes messages as JSON lines if asked to, else calls human.
func (e *Env) print(human func(w io.Writer), messages ...proto.Message) error {
	if !e.JSON {
		human(e.Out)
		return nil
	}
	for _, m := range messages {
		b, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
		if err != nil {
			return fmt.Errorf("encode %T: %w", m, err)
		}
		// protojson varies its white space on purpose; scripts get one stable form.
		var v json.RawMessage = b
		line, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode %T: %w", m, err)
		}
		if _, err := fmt.Fprintf(e.Out, "%s\n", line); err != nil {
			return err
		}
	}
	return nil
}

// table writes rows under a header, aligned by the cells that a terminal gives each character: two for Chinese.
// What would break a row, such as the lines of an error, becomes blanks.
// A cell in the middle is cut where it would push the rest out of sight; --json has it whole.
func table(w io.Writer, header []string, rows [][]string) {
	const widest = 72
	lines := make([][]string, 0, len(rows)+1)
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		line := make([]string, len(row))
		for i, cell := range row {
			line[i] = oneLine(cell)
			if i < len(row)-1 && uniseg.StringWidth(line[i]) > widest {
				line[i] = clip(line[i], widest-2) + ".."
			}
			if i < len(widths) {
				widths[i] = max(widths[i], uniseg.StringWidth(line[i]))
			}
		}
		lines = append(lines, line)
	}
	for _, line := range lines {
		var b strings.Builder
		for i, cell := range line {
			b.WriteString(cell)
			if i < len(line)-1 && i < len(widths) {
				b.WriteString(strings.Repeat(" ", widths[i]+2-uniseg.StringWidth(cell)))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// oneLine makes blanks of what would move a terminal's cursor: file names and errors come from anywhere.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// pad fills s with blanks up to width cells.
func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-uniseg.StringWidth(s)))
}

// clip cuts s to width cells.
func clip(s string, width int) string {
	used, end := 0, 0
	for g := uniseg.NewGraphemes(s); g.Next(); {
		if used += g.Width(); used > width {
			return s[:end]
		}
		_, end = g.Positions()
	}
	return s
}

// collection turns what a user types into a resource name.
func collection(s string) string { return withPrefix("collections/", s) }

// document accepts a full name or COLLECTION/DOCUMENT.
func document(s string) string {
	if strings.HasPrefix(s, "collections/") {
		return s
	}
	if c, d, ok := strings.Cut(s, "/"); ok {
		return "collections/" + c + "/documents/" + d
	}
	return s
}

func withPrefix(prefix, s string) string {
	if s == "" || strings.HasPrefix(s, prefix) {
		return s
	}
	return prefix + s
}

// short returns the last part of a resource name.
func short(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// isTerminal reports whether w is a terminal that can be redrawn, and its width.
func isTerminal(w io.Writer) (int, bool) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 40 {
		return 80, err == nil
	}
	return width, true
}

// pages calls next with each page token until it returns an empty one.
func pages(ctx context.Context, next func(token string) (string, error)) error {
	for token := ""; ; {
		t, err := next(token)
		if err != nil || t == "" {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		token = t
	}
}
