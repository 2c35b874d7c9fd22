package tensorboard_test

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/tensorboard"
)

// records cuts a file into its payloads and returns them with their sums.
func records(t *testing.T, dir string) (payloads [][]byte, sums []uint32) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "events.out.tfevents.*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	raw, err := os.ReadFile(files[0])
	require.NoError(t, err)
	for len(raw) > 0 {
		require.GreaterOrEqual(t, len(raw), 16)
		n := binary.LittleEndian.Uint64(raw)
		require.GreaterOrEqual(t, uint64(len(raw)), n+16)
		payloads = append(payloads, raw[12:12+n])
		sums = append(sums, binary.LittleEndian.Uint32(raw[8:]), binary.LittleEndian.Uint32(raw[12+n:]))
		raw = raw[16+n:]
	}
	return payloads, sums
}

// The bytes are those that the reference writer makes of the same event.
func TestAdd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tensorboard")
	w, err := tensorboard.Create(dir, 0)
	require.NoError(t, err)
	require.NoError(t, w.Add(time.Unix(1_700_000_000, 500_000_000), 7, tensorboard.Scalar{Tag: "loss", Value: 1.5}, tensorboard.Scalar{Tag: "lr", Value: math.NaN()}))
	require.NoError(t, w.Close())
	payloads, sums := records(t, dir)
	require.Len(t, payloads, 2)
	assert.Contains(t, string(payloads[0]), "brain.Event:2")
	assert.Equal(t, "0900002040fc54d94110072a180a0b0a046c6f7373150000c03f0a090a026c72150000c07f", hex.EncodeToString(payloads[1]))
	assert.Equal(t, []uint32{0xf336bcea, 0x2f49543e}, sums[2:])
}

func TestGoesOn(t *testing.T) {
	dir := t.TempDir()
	w, err := tensorboard.Create(dir, 4)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	payloads, _ := records(t, dir)
	require.Len(t, payloads, 2)
	assert.Equal(t, "10053a020801", hex.EncodeToString(payloads[1][9:]), "step 5 and later are made anew")
}

func TestNoFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	_, err := tensorboard.Create(file, 0)
	require.Error(t, err)
}
