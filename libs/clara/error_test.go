package clara_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/clara-suite/clara/libs/clara"
)

func TestKindOf(t *testing.T) {
	inner := clara.Errorf(clara.Corrupt, "read block: %w", io.ErrUnexpectedEOF)
	for _, c := range []struct {
		name string
		err  error
		kind clara.Kind
	}{
		{"none", nil, clara.Internal},
		{"plain", io.EOF, clara.Internal},
		{"direct", inner, clara.Corrupt},
		{"wrapped", fmt.Errorf("open: %w", inner), clara.Corrupt},
		{"outermost wins", clara.Errorf(clara.State, "load: %w", inner), clara.State},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.kind, clara.KindOf(c.err)) })
	}
	assert.ErrorIs(t, inner, io.ErrUnexpectedEOF)
	assert.Equal(t, "read block: unexpected EOF", inner.Error())
	assert.Equal(t, 2*time.Second, clara.RetryAfter(fmt.Errorf("x: %w", clara.BusyError(2*time.Second, "queue full"))))
	assert.True(t, clara.IsContext(fmt.Errorf("x: %w", context.Canceled)))
	assert.False(t, clara.IsContext(errors.New("canceled")))
}
