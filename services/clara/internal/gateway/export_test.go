package gateway

import (
	"github.com/clara-suite/clara/libs/app"
	"github.com/clara-suite/clara/libs/lifecycle"
)

// Mount is mount.
func (c *Cmd) Mount(a *app.App) ([]lifecycle.Unit, error) { return c.mount(a) }
