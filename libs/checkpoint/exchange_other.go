//go:build !linux

package checkpoint

import "errors"

// exchange has no portable form.
func exchange(_, _ string) error { return errors.ErrUnsupported }
