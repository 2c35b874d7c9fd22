//go:build linux && !race

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/disk"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
)

// TestFullDisk runs the suite on a small disk of its own. When that is nearly full, work waits and says why; when it
// is full to the last byte, requests fail and say why; with room again all that was accepted is done.
func TestFullDisk(t *testing.T) {
	if out, err := exec.Command("unshare", "-rm", "true").CombinedOutput(); err != nil {
		t.Skipf("NOT RUN: a full disk, because this user may not mount one (unshare: %v %s)", err, out)
	}
	const spare = 4 << 20 // what is free besides the reserve
	data := t.TempDir()
	s := newSuite(t, data, "--ingest-ocr", "never")
	s.wrap = []string{"unshare", "-rm", "sh", "-c", fmt.Sprintf(
		`mount -t tmpfs -o size=%d none "$0" && dd if=/dev/zero of="$0/filler" bs=1M count=64 status=none && exec "$@"`, disk.Reserve+spare+64<<20), data}
	require.NoError(t, s.start())
	t.Cleanup(func() {
		assert.Zero(t, s.stop(), s.tail(30))
		if t.Failed() {
			t.Logf("end of the log:\n%s", s.tail(60))
		}
	})
	require.NoError(t, s.ready(t.Context()))
	mounted := filepath.Join("/proc", fmt.Sprint(s.cmd.Process.Pid), "root", data)

	docs := t.TempDir()
	assert.Contains(t, s.ok("ingest", write(t, docs, "small.md", "# Small\n\nThe quay is long.\n"), "-c", "full"), "1 done")
	// One that does not fit is told of with its reason, and those beside it go on.
	mixed := t.TempDir()
	write(t, mixed, "a.md", "# A\n\nThe first of three.\n")
	write(t, mixed, "b.txt", strings.Repeat("The quay is long and the ship is late. ", 3*spare/39))
	write(t, mixed, "c.md", "# C\n\nThe last of three.\n")
	r := s.run("ingest", mixed, "-c", "full")
	assert.Equal(t, 3, r.code, "%s%s", r.out, r.err)
	assert.Contains(t, row(r.out, "a.md"), " done ")
	assert.Contains(t, row(r.out, "b.txt"), " failed ")
	assert.Contains(t, row(r.out, "b.txt"), "nearly full")
	assert.Contains(t, row(r.out, "c.md"), " done ")
	large := write(t, docs, "large.txt", strings.Repeat("The quay is long and the ship is late. ", 100_000))
	s.ok("ingest", large, "-c", "full", "--detach")
	c, job := s.clients(), ""
	require.Eventually(t, func() bool {
		list, err := c.jobs.ListJobs(t.Context(), &jobv1.ListJobsRequest{})
		if err != nil || len(list.Jobs) == 0 {
			return false
		}
		job = list.Jobs[0].Name
		j, err := c.jobs.GetJob(t.Context(), &jobv1.GetJobRequest{Name: job})
		return err == nil && len(j.Items) == 1 && strings.Contains(j.Items[0].Stage, "nearly full")
	}, time.Minute, 50*time.Millisecond, "the job must say what it waits for")
	r = s.run("ingest", write(t, docs, "more.md", "# More\n\nStill more.\n"), "-c", "full")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.out+r.err, "nearly full")
	assert.Contains(t, r.out+r.err, "free some space")

	// To the last byte: somebody else fills the disk.
	fill, err := os.Create(filepath.Join(mounted, "fill"))
	require.NoError(t, err)
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err = fill.Write(block); err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			block = block[:len(block)/2]
		}
	}
	require.NoError(t, fill.Close())
	r = s.run("ingest", filepath.Join(docs, "more.md"), "-c", "full")
	assert.Equal(t, 1, r.code)
	t.Log(r.out, r.err)
	assert.Contains(t, r.out+r.err, "full")

	require.NoError(t, os.Remove(filepath.Join(mounted, "fill")))
	require.NoError(t, os.Remove(filepath.Join(mounted, "filler")))
	s.ok("jobs", "watch", strings.TrimPrefix(job, "jobs/"))
	s.await(t, "full", "large.txt", ingestv1.Document_STATE_READY)
	s.await(t, "full", "small.md", ingestv1.Document_STATE_READY)
	assert.Contains(t, s.ok("ingest", filepath.Join(docs, "more.md"), "-c", "full"), "1 done")
}
