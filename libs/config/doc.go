// Package config fills a program's Config struct from, in this order of
// strength: command line flags, environment variables, a YAML file, defaults.
//
// The struct carries kong tags. A field may name several environment variables,
// the first one set wins, so that names users already have keep working:
//
//	type Config struct {
//		RawDir string        `help:"Folder of raw files." env:"CLARA_INGEST_RAW_DIR,RAW_DATA_DIR" default:"data/raw"`
//		Key    config.Secret `help:"API key." env:"OPENAI_API_KEY"`
//	}
//
// Every flag is also a YAML key, nested or flat, with - or _ between words:
// --ingest-raw-dir is "ingest-raw-dir: x" or "ingest: {raw_dir: x}". A key that
// no flag has is an error that names the file, the line and the nearest key.
//
// An environment variable that is set but empty counts as not set: compose files
// pass those on. A .env file adds variables that the environment lacks and never
// replaces one.
//
// Packages that must not import this one mark a string as a secret with the tag secret:"".
//
// A struct, or one embedded in it, that has the method Validate() error is asked
// after parsing; it reports all its faults with errors.Join, and so does Parse
// for all structs together.
//
// Parse is for the start of a process: it changes the environment of the process
// (.env). Errors are clara.Invalid.
package config
