package tokenizer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/testkit/partstest"
	"github.com/clara-suite/clara/libs/tokenizer"
)

// goldenDirs returns the golden folders; without CLARA_GOLDEN the test does not run and says so.
func goldenDirs(t *testing.T) []string {
	root := partstest.Golden(t)
	dirs, err := filepath.Glob(filepath.Join(root, "*", "golden.json"))
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	return dirs
}

func TestGolden(t *testing.T) {
	for _, dir := range goldenDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var g struct {
				Tokenizer struct {
					Special struct {
						BOSID  int32   `json:"bos_id"`
						EOSID  int32   `json:"eos_id"`
						PadID  int32   `json:"pad_id"`
						EncID  int32   `json:"enc_id"`
						AEID   int32   `json:"ae_id"`
						SepID  int32   `json:"sep_id"`
						MemIDs []int32 `json:"mem_ids"`
						Length int
					}
					Cases []struct {
						Text        string
						IDs         []int32
						WithSpecial []int32 `json:"ids_with_special"`
						Decoded     string
						Skipped     string `json:"decoded_skip_special"`
					}
				}
			}
			b, err := os.ReadFile(filepath.Join(dir, "golden.json"))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(b, &g))
			base, err := tokenizer.Load(filepath.Join(dir, "base"))
			require.NoError(t, err)
			want := g.Tokenizer.Special
			c, err := tokenizer.NewClara(base, len(want.MemIDs), true)
			require.NoError(t, err)
			assert.Equal(t, []int32{want.BOSID, want.EOSID, want.PadID, want.EncID, want.AEID, want.SepID}, []int32{c.BOSID, c.EOSID, c.PadID, c.Enc, c.AE, c.Sep})
			assert.Equal(t, want.MemIDs, c.Mem)
			assert.Equal(t, want.Length, c.Len())
			require.NotEmpty(t, g.Tokenizer.Cases)
			for _, x := range g.Tokenizer.Cases {
				ids := c.EncodeTrusted(x.Text)
				assert.Equal(t, x.IDs, append([]int32{}, ids...), x.Text)
				assert.Equal(t, x.WithSpecial, append([]int32{}, c.AddSpecials(ids)...), x.Text)
				assert.Equal(t, x.Decoded, c.Decode(x.IDs, false), x.Text)
				assert.Equal(t, x.Skipped, c.Decode(x.IDs, true), x.Text)
				for _, id := range c.Encode(x.Text) {
					assert.False(t, c.IsAdded(id) && id != base.ID("<unk>"), "plain %q yields %q", x.Text, c.Name(id))
				}
			}
		})
	}
}
