package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/index/embedded"
	"github.com/clara-suite/clara/libs/index/indextest"
)

// A full disk fails the write and nothing else: searches go on, and writes too once there is space.
func TestFullDisk(t *testing.T) {
	dir := makeData(t, func(*index.Index) {})
	rng := rand.New(rand.NewPCG(1, 1))
	s, err := embedded.Open(embedded.Options{Dir: dir})
	require.NoError(t, err)
	c, err := index.Open(t.Context(), index.Options{Dial: s.Dial})
	require.NoError(t, err)
	x, err := c.Index(t.Context(), "a")
	require.NoError(t, err)
	fault := s.Break("a.1")

	fault.Write = syscall.ENOSPC
	for range 2 {
		err = x.Upsert(t.Context(), []index.Point{point(rng, "new", 0)})
		assert.Equal(t, clara.Unavailable, clara.KindOf(err))
		assert.ErrorContains(t, err, "no space left on device")
		assert.Error(t, x.Delete(t.Context(), index.Filter{Documents: []string{"kept"}}))
		assert.Equal(t, 3, count(t, c, index.Filter{}))
	}
	fault.Write = nil
	require.NoError(t, x.Upsert(t.Context(), []index.Point{point(rng, "new", 0)}))
	assert.Equal(t, 4, count(t, c, index.Filter{}))

	// After a failed sync nobody knows what is on disk: no more writes until the server is started again.
	fault.Sync = syscall.EIO
	err = x.Upsert(t.Context(), []index.Point{point(rng, "new", 1)})
	assert.Equal(t, clara.Unavailable, clara.KindOf(err))
	fault.Sync = nil
	err = x.Upsert(t.Context(), []index.Point{point(rng, "new", 2)})
	assert.ErrorContains(t, err, "restart the server")
	assert.Equal(t, 4, count(t, c, index.Filter{}))
	require.NoError(t, c.Close())
	require.NoError(t, s.Close())

	with(t, dir, nil, func(c *index.Client) {
		x, err := c.Index(t.Context(), "a")
		require.NoError(t, err)
		require.NoError(t, x.Upsert(t.Context(), []index.Point{point(rng, "new", 1), point(rng, "new", 2)}))
		assert.Equal(t, 6, count(t, c, index.Filter{}))
	})
}

// victimDir tells this test binary to be the process that is killed.
const victimDir = "CLARA_INDEX_TEST_VICTIM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		if err := victim(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const victimPoints = 7 // of one write

// victim writes round after round, and deletes what it wrote four rounds ago, until it is killed. It prints what was acknowledged.
func victim(dir string) error {
	ctx := context.Background()
	s, err := embedded.Open(embedded.Options{Dir: dir})
	if err != nil {
		return err
	}
	c, err := index.Open(ctx, index.Options{Dial: s.Dial})
	if err != nil {
		return err
	}
	x, err := c.Ensure(ctx, "a.1", index.Schema{M: 1, H: 8})
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(9, 9))
	for round := 0; ; round++ {
		var points []index.Point
		for i := range victimPoints {
			points = append(points, index.Point{Passage: indextest.Passage(strconv.Itoa(round), i, "text"), Memory: indextest.Memory(rng, 1, 8)})
		}
		fmt.Println("writing", round)
		if err := x.Upsert(ctx, points); err != nil {
			return err
		}
		fmt.Println("wrote", round)
		if round >= 4 {
			fmt.Println("deleting", round-4)
			if err := x.Delete(ctx, index.Filter{Documents: []string{strconv.Itoa(round - 4)}}); err != nil {
				return err
			}
			fmt.Println("deleted", round-4)
		}
	}
}

// kill -9 at any moment: what was acknowledged is there, what was deleted is not, a write is whole or not there.
func TestKill(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 2))
	for range 8 {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), victimDir+"="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		last := map[string]int{"writing": -1, "wrote": -1, "deleting": -1, "deleted": -1}
		lines := bufio.NewScanner(out)
		for stop := 1 + rng.IntN(60); lines.Scan(); stop-- {
			word, number, _ := strings.Cut(lines.Text(), " ")
			n, err := strconv.Atoi(number)
			require.NoError(t, err, lines.Text())
			last[word] = n
			if stop == 0 {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		require.Error(t, cmd.Wait(), "was killed")

		with(t, dir, nil, func(c *index.Client) {
			x, err := c.Index(t.Context(), "a.1")
			require.NoError(t, err)
			for round := range last["writing"] + 2 {
				n, err := x.Count(t.Context(), index.Filter{Documents: []string{strconv.Itoa(round)}})
				require.NoError(t, err)
				switch {
				case round <= last["deleted"]:
					assert.Zero(t, n, "round %d was deleted; state %v", round, last)
				case round == last["deleting"], round == last["writing"] && round != last["wrote"]:
					assert.Contains(t, []int{0, victimPoints}, n, "round %d is whole or not there; state %v", round, last)
				case round <= last["wrote"]:
					assert.Equal(t, victimPoints, n, "round %d was written; state %v", round, last)
				default:
					assert.Zero(t, n, "round %d was never written; state %v", round, last)
				}
			}
		})
	}
}
