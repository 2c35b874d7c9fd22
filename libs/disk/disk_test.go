package disk_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/disk"
)

func TestRoom(t *testing.T) {
	dir := t.TempDir()
	free, ok := disk.Free(dir)
	if !ok {
		t.Log("NOT RUN: this system does not say how much of a disk is free")
		return
	}
	require.Positive(t, free)
	err := disk.Room(dir, 1<<62)
	assert.Equal(t, clara.Unavailable, clara.KindOf(err))
	assert.ErrorContains(t, err, dir)
	assert.ErrorContains(t, err, "free some space")
	_, ok = disk.Free(dir + "/none")
	assert.False(t, ok)
	assert.NoError(t, disk.Room(dir+"/none", 1<<62), "the write itself will say what is wrong")
}
