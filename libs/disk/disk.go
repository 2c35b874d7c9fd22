// Package disk keeps part of a disk free. Events and records are small and are
// what nothing may lose, so the stores of what is large (files, memories, model
// packages) stop while there is still room for them. A disk that others fill to
// the last byte is another matter: then every store says so.
package disk

import (
	"fmt"
	"time"

	"github.com/clara-suite/clara/libs/clara"
)

// Reserve is how many bytes stay free.
const Reserve = 256 << 20

// Room fails if writing n more bytes below dir would leave less than Reserve free. Unavailable: the caller may
// try again, the way out is to free some space. Where the system doesn't say how much is free there is room.
func Room(dir string, n int64) error {
	free, ok := Free(dir)
	if !ok || free-n >= Reserve {
		return nil
	}
	return &clara.Error{Kind: clara.Unavailable, RetryAfter: 10 * time.Second, Err: fmt.Errorf(
		"the disk of %s is nearly full: %d MiB are free, and %d MiB stay free so that no record is lost; free some space, the work goes on by itself",
		dir, free>>20, int64(Reserve)>>20)}
}
