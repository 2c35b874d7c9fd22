// Clara is the command line of the suite, and the suite itself: clara up.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/config"
	"github.com/clara-suite/clara/libs/telemetry"
	"github.com/clara-suite/clara/services/clara/internal/cli"
	"github.com/clara-suite/clara/services/clara/internal/gateway"
	"github.com/clara-suite/clara/services/clara/internal/up"
)

// program is all commands, in the order in which a newcomer meets them.
type program struct {
	cli.Services

	Up          up.Cmd             `cmd:"" help:"Run all services in one process."`
	Ingest      cli.Ingest         `cmd:"" help:"Take files and folders into a collection."`
	Ask         cli.Ask            `cmd:"" help:"Ask a collection a question."`
	Docs        cli.Docs           `cmd:"" help:"List, show, explain, delete and reprocess documents."`
	Collections cli.Collections    `cmd:"" help:"List and manage collections."`
	Jobs        cli.Jobs           `cmd:"" help:"List, watch, cancel and retry jobs."`
	Models      cli.Models         `cmd:"" help:"List, import, activate and delete model packages."`
	Train       cli.Train          `cmd:"" help:"Train a model: one stage, or all three."`
	Runs        cli.Runs           `cmd:"" help:"List, show, plot, compare, stop and resume training runs."`
	Eval        cli.Eval           `cmd:"" help:"Measure a model on questions with known answers."`
	Generate    cli.Generate       `cmd:"" help:"Paraphrase, answer and select without a collection."`
	Verify      cli.Verify         `cmd:"" help:"Compare this build with a folder of reference figures."`
	Extract     cli.Extract        `cmd:"" help:"Read files as Markdown, without any service."`
	Describe    cli.DataDescribe   `cmd:"" help:"Describe pictures, as a step of making training data."`
	Synthesize  cli.DataSynthesize `cmd:"" help:"Make training files of extracted documents or a text file."`
	Data        cli.Data           `cmd:"" help:"Make training data from raw files, and check it."`
	Events      cli.Events         `cmd:"" help:"Publish events and look after those that were given up."`
	Index       cli.Index          `cmd:"" help:"Serve the embedded index alone."`
	Gateway     gateway.Cmd        `cmd:"" help:"One address for services that run as containers."`
	Wait        cli.Wait           `cmd:"" help:"Wait until the suite is ready."`
}

// Exit codes: 1 failed, 2 wrong use, 3 done in part.
func main() { os.Exit(run()) }

func run() int {
	var p program
	env := &cli.Env{Out: os.Stdout, Err: os.Stderr}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	parsed, err := config.Parse(&p, config.Options{
		Name: "clara", Description: "Ask a folder of documents. Start with: clara up", Version: telemetry.Version, Args: os.Args[1:],
		Kong: []kong.Option{kong.Vars{"listen": "127.0.0.1:7400"}, kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(env), kong.Help(cli.Help)},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "clara:", err)
		return 2
	}
	if err := cli.CheckFlags(parsed.Kong); err != nil {
		fmt.Fprintln(os.Stderr, "clara:", err)
		return 2
	}
	for _, w := range parsed.Warnings {
		fmt.Fprintln(os.Stderr, "clara:", w)
	}
	command := parsed.Kong.Command()
	if serve := map[string]func() (int, error){"up": p.Up.Serve, "gateway": p.Gateway.Serve}[command]; serve != nil {
		stop() // it waits for signals itself
		code, err := serve()
		if err != nil {
			fmt.Fprintf(os.Stderr, "clara %s: %v\n", command, err)
			return 1
		}
		return code
	}
	env.Services = p.Services
	switch err := parsed.Kong.Run(); {
	case err == nil:
		return 0
	case errors.Is(err, cli.ErrPartial):
		return 3
	case ctx.Err() != nil && clara.IsContext(err):
		fmt.Fprintln(os.Stderr, "clara: stopped")
		return 130
	default:
		fmt.Fprintln(os.Stderr, "clara:", env.Explain(err))
		return 1
	}
}
