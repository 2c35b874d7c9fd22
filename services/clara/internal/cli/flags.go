package cli

import (
	"strings"

	"github.com/alecthomas/kong"

	"github.com/clara-suite/clara/libs/clara"
)

// idle are the flags of Services that do nothing in a command, with what is meant instead. They are flags of the program, so
// that they may stand before any command.
var idle = map[string]map[string]string{
	"up": {
		"addr": "where it listens is --listen", "json": "its log has --log-format json", "token": "tokens that it accepts are in --token-file",
		"tls-ca":      "its own certificate is --tls-cert",
		"ingest-addr": allInOne, "compressor-addr": allInOne, "reranker-addr": allInOne, "generator-addr": allInOne, "trainer-addr": allInOne,
	},
	"gateway": {
		"addr": "where it listens is --listen", "json": "its log has --log-format json", "token": "callers' tokens are passed on as they are",
		"tls-ca":      "the authority of the services' certificates is --client-tls-ca",
		"ingest-addr": "give --to-ingest-addr", "compressor-addr": "give --to-compressor-addr", "reranker-addr": "give --to-reranker-addr",
		"generator-addr": "give --to-generator-addr", "trainer-addr": "give --to-trainer-addr",
	},
	"index serve": noService("json", "its log has --log-format json"),
	"extract":     noService("json", "it writes Markdown"),
	"verify":      noService("", ""),
}

const allInOne = "all services run in this process"

// noService is idle of a command that calls no service.
func noService(more, why string) map[string]string {
	out := map[string]string{}
	for _, name := range []string{"addr", "ingest-addr", "compressor-addr", "reranker-addr", "generator-addr", "trainer-addr", "token", "tls-ca"} {
		out[name] = "it calls no service"
	}
	if more != "" {
		out[more] = why
	}
	return out
}

// idleIn returns the flags that do nothing in the command that was selected, and its name.
func idleIn(ctx *kong.Context) (string, map[string]string) {
	var words []string
	for n := ctx.Selected(); n != nil && n.Type == kong.CommandNode; n = n.Parent {
		words = append([]string{n.Name}, words...)
	}
	name := strings.Join(words, " ")
	return name, idle[name]
}

// CheckFlags refuses flags on the command line that do nothing in the command, and says what is meant instead. Variables and
// files of settings are shared by all programs and commands, so what they set is not refused.
func CheckFlags(ctx *kong.Context) error {
	command, idle := idleIn(ctx)
	for _, p := range ctx.Path {
		if p.Flag == nil || p.Resolved {
			continue
		}
		if why, ok := idle[p.Flag.Name]; ok {
			return clara.Errorf(clara.Invalid, "--%s does nothing in clara %s: %s", p.Flag.Name, command, why)
		}
	}
	return nil
}

// Help prints a command's help without the flags that do nothing there.
func Help(options kong.HelpOptions, ctx *kong.Context) error {
	_, idle := idleIn(ctx)
	for _, f := range ctx.Model.Flags {
		if _, ok := idle[f.Name]; ok {
			f.Hidden = true
		}
	}
	return kong.DefaultHelpPrinter(options, ctx)
}
