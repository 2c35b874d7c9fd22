package config_test

import (
	"fmt"

	"github.com/clara-suite/clara/libs/config"
)

func ExampleParse() {
	var cfg struct {
		RawDir string        `help:"Folder of raw files." env:"EXAMPLE_RAW_DIR,RAW_DATA_DIR" default:"data/raw"`
		APIKey config.Secret `help:"API key." env:"EXAMPLE_API_KEY"`
	}
	_, err := config.Parse(&cfg, config.Options{Name: "example", Args: []string{"--raw-dir=manuals", "--api-key=s3cret"}})
	fmt.Println(cfg.RawDir, cfg.APIKey, err)
	// Output: manuals ******** <nil>
}
