// Package indextest is the suite that every server of an index must pass: the
// embedded one and a real Qdrant. Tests import it, nothing else does.
package indextest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
)

// Run runs the suite on the server that c is connected to. It makes indexes of
// names of its own and drops them.
func Run(t *testing.T, c *index.Client) {
	for _, s := range []struct {
		name string
		test func(*testing.T, *index.Client)
	}{
		{"schema", testSchema},
		{"round trip", testRoundTrip},
		{"passages", testPassages},
		{"search text", testSearchText},
		{"search hybrid", testSearchHybrid},
		{"limits", testLimits},
		{"filter", testFilter},
		{"deletion", testDeletion},
		{"upsert twice", testUpsertTwice},
		{"scroll", testScroll},
		{"recall", testRecall},
		{"recall by key", testRecallByKey},
		{"large memory", testLargeMemory},
		{"round trip of codes", testCodesRoundTrip},
		{"recall of codes", testCodesRecall},
		{"large memory of codes", testCodesLarge},
		{"alias moves while searching", testAliasMoves},
		{"writers and readers", testWritersAndReaders},
		{"faults", testFaults},
	} {
		t.Run(s.name, func(t *testing.T) { s.test(t, c) })
	}
}

// ensure makes an index with a name that no other run uses.
func ensure(t *testing.T, c *index.Client, s index.Schema) *index.Index {
	t.Helper()
	name := index.Name("suite-"+uuid.NewString(), "0123abcd", s.M > 0)
	x, err := c.Ensure(t.Context(), name, s)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Drop(context.WithoutCancel(t.Context()), name)) })
	return x
}

// Passage makes a passage of a text.
func Passage(document string, ordinal int, text string) clara.Passage {
	sum := sha256.Sum256([]byte(text))
	return clara.Passage{
		Collection: "handbook", Document: document, Ordinal: ordinal, Text: text,
		Headings: []string{"Part " + document, fmt.Sprintf("§ %d", ordinal)}, PageFirst: ordinal + 1, PageLast: ordinal + 2,
		Hash: hex.EncodeToString(sum[:]), Tokens: len(text) / 4, File: document + ".pdf",
	}
}

// Memory draws a memory of normal numbers; what the encoder makes has outliers too, so some are large.
func Memory(rng *rand.Rand, m, h int) clara.Memory {
	out := clara.Memory{M: m, H: h, Data: make([]float32, m*h)}
	for i := range out.Data {
		out.Data[i] = float32(rng.NormFloat64())
		if rng.IntN(200) == 0 {
			out.Data[i] *= 30
		}
	}
	return out
}

func add(a clara.Memory, b clara.Memory, weight float32) clara.Memory {
	out := clara.Memory{M: a.M, H: a.H, Data: slices.Clone(a.Data)}
	for i := range out.Data {
		out.Data[i] += weight * b.Data[i]
	}
	return out
}

// cosine is the reference, in float64.
func cosine(a, b clara.Memory) float64 {
	var ab, aa, bb float64
	for i, x := range a.Data {
		y := float64(b.Data[i])
		ab, aa, bb = ab+float64(x)*y, aa+float64(x)*float64(x), bb+y*y
	}
	if aa == 0 || bb == 0 {
		return 0
	}
	return ab / math.Sqrt(aa*bb)
}

func random() *rand.Rand { return rand.New(rand.NewPCG(7, 11)) }

func documents(found []clara.Candidate) []string {
	var out []string
	for _, c := range found {
		out = append(out, fmt.Sprintf("%s/%d", c.Passage.Document, c.Passage.Ordinal))
	}
	return out
}

func testSchema(t *testing.T, c *index.Client) {
	ctx := t.Context()
	s := index.Schema{M: 2, H: 3}
	x := ensure(t, c, s)
	again, err := c.Ensure(ctx, x.Name(), s)
	require.NoError(t, err)
	assert.Equal(t, s, again.Schema())
	assert.Equal(t, x.Name(), again.Name())

	_, err = c.Ensure(ctx, x.Name(), index.Schema{M: 3, H: 2})
	assert.Equal(t, clara.Exists, clara.KindOf(err))

	names, err := c.List(ctx)
	require.NoError(t, err)
	assert.Contains(t, names, x.Name())

	_, err = c.Ensure(ctx, x.Name(), index.Schema{M: 2, H: 3, Memories: index.Int8})
	assert.Equal(t, clara.Exists, clara.KindOf(err), "another precision is another index")
	for _, p := range index.Precisions() {
		kept := ensure(t, c, index.Schema{M: 2, H: 3, Memories: p})
		opened, err := c.Index(ctx, kept.Name())
		require.NoError(t, err)
		assert.Equal(t, p, opened.Schema().Memories)
	}

	keyed := ensure(t, c, index.Schema{M: 4, H: 8, Key: index.Key{Dims: 16, Seed: 1<<63 + 5}})
	opened, err := c.Index(ctx, keyed.Name())
	require.NoError(t, err)
	assert.Equal(t, keyed.Schema(), opened.Schema(), "a seed of 64 bits survives")

	require.NoError(t, c.Drop(ctx, x.Name()))
	require.NoError(t, c.Drop(ctx, x.Name()), "dropping twice is no error")
	_, err = c.Index(ctx, x.Name())
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	_, err = x.Count(ctx, index.Filter{})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}

func testRoundTrip(t *testing.T, c *index.Client) {
	rng := random()
	for _, s := range []index.Schema{
		{M: 3, H: 5}, {M: 16, H: 576}, {M: 1, H: 1},
		{M: 6, H: 100, Key: index.Key{Dims: 64}}, // stored whole, searched by key
	} {
		t.Run(fmt.Sprintf("%dx%d", s.M, s.H), func(t *testing.T) {
			x := ensure(t, c, s)
			var points []index.Point
			var ids []string
			for i, factor := range []float32{1, 1e-6, 3e7, 0} {
				m := Memory(rng, s.M, s.H)
				for j := range m.Data {
					m.Data[j] *= factor
				}
				p := Passage("a", i, fmt.Sprintf("text %d", i))
				points = append(points, index.Point{Passage: p, Set: "s1", Revision: 3, Memory: m})
				ids = append(ids, index.PointID(x.Name(), p))
			}
			require.NoError(t, x.Upsert(t.Context(), points))
			got, err := x.Memories(t.Context(), ids)
			require.NoError(t, err)
			require.Len(t, got, len(points))
			for i, m := range got {
				want := points[i].Memory
				require.Equal(t, [2]int{s.M, s.H}, [2]int{m.M, m.H})
				var rms float64
				for _, v := range want.Data {
					rms += float64(v) * float64(v)
				}
				rms = math.Sqrt(rms / float64(len(want.Data)))
				for j, v := range want.Data {
					// Half precision: 2^-11 relative, 2^-25 of the root mean square where that is subnormal.
					bound := math.Max(math.Abs(float64(v))*0x1p-11, rms*0x1p-25) * 1.0001
					require.InDelta(t, float64(v), float64(m.Data[j]), bound, "point %d, value %d", i, j)
				}
			}
			// What is zero is close to nothing, and an error for no one.
			found, err := x.SearchMemory(t.Context(), points[0].Memory, 10, index.Filter{})
			require.NoError(t, err)
			require.Len(t, found, 4)
			for _, f := range found {
				want := cosine(points[0].Memory, points[f.Passage.Ordinal].Memory)
				assert.InDelta(t, want, f.Score, 2e-4)
			}
		})
	}
}

func testPassages(t *testing.T, c *index.Client) {
	x := ensure(t, c, index.Schema{})
	var points []index.Point
	for i := range 3 {
		points = append(points, index.Point{Passage: Passage("b", 2-i, fmt.Sprintf("line %d\n\twith\x00all sorts 张三 ✓", i)), Set: "s", Revision: 1 << 40})
	}
	points[1].Passage.Headings = nil
	require.NoError(t, x.Upsert(t.Context(), points))
	require.NoError(t, x.Upsert(t.Context(), []index.Point{{Passage: Passage("other", 0, "x")}}))
	got, err := x.Passages(t.Context(), "handbook", "b")
	require.NoError(t, err)
	require.Len(t, got, 3)
	for i, g := range got {
		want := points[2-i]
		assert.Equal(t, want.Passage, g.Passage)
		assert.Equal(t, want.Set, g.Set)
		assert.Equal(t, want.Revision, g.Revision)
		assert.Equal(t, index.PointID(x.Name(), want.Passage), g.PointID)
	}
	byID, err := x.Get(t.Context(), []string{got[2].PointID, got[0].PointID})
	require.NoError(t, err)
	assert.Equal(t, []index.Stored{got[2], got[0]}, byID)
	none, err := x.Passages(t.Context(), "handbook", "nothing")
	require.NoError(t, err)
	assert.Empty(t, none)
}

func testSearchText(t *testing.T, c *index.Client) {
	x := ensure(t, c, index.Schema{})
	for i, text := range []string{
		"The quarterly report is written by the finance team.",
		"Travel expenses are reimbursed within thirty days of the claim.",
		"员工出差费用在三十天内报销。",
		"Holidays: every employee has thirty days a year.",
	} {
		require.NoError(t, x.Upsert(t.Context(), []index.Point{{Passage: Passage("d", i, text)}}))
	}
	for _, q := range []struct {
		name, text string
		first      []string
	}{
		{"word", "finance", []string{"d/0"}},
		{"stem", "reimbursing a claim", []string{"d/1"}},
		{"case and form", "ＴＲＡＶＥＬ", []string{"d/1"}},
		{"chinese", "报销费用", []string{"d/2"}},
		{"rare word counts more", "thirty holidays", []string{"d/3", "d/1"}},
		{"no such word", "submarine", nil},
		{"only stop words", "what is the", nil},
		{"empty", "", nil},
	} {
		t.Run(q.name, func(t *testing.T) {
			found, err := x.SearchText(t.Context(), q.text, 2, index.Filter{})
			require.NoError(t, err)
			assert.Equal(t, q.first, documents(found))
			for _, f := range found {
				assert.Positive(t, f.Score)
			}
		})
	}
}

func testSearchHybrid(t *testing.T, c *index.Client) {
	rng := random()
	x := ensure(t, c, index.Schema{M: 2, H: 8})
	q := Memory(rng, 2, 8)
	// d/0 is close by memory, d/1 by text, d/2 is second in both.
	require.NoError(t, x.Upsert(t.Context(), []index.Point{
		{Passage: Passage("d", 0, "nothing of the kind"), Memory: add(q, Memory(rng, 2, 8), 0.01)},
		{Passage: Passage("d", 1, "zebra zebra"), Memory: add(Memory(rng, 2, 8), q, -9)},
		{Passage: Passage("d", 2, "zebra and much that has to do with something else"), Memory: add(q, Memory(rng, 2, 8), 0.1)},
	}))
	for i := range 5 { // between d/2 and d/1 by memory
		require.NoError(t, x.Upsert(t.Context(), []index.Point{
			{Passage: Passage("e", i, "something else"), Memory: add(Memory(rng, 2, 8), q, 3)},
		}))
	}
	found, err := x.SearchHybrid(t.Context(), q, "zebra", 3, index.Filter{})
	require.NoError(t, err)
	require.Len(t, found, 3)
	assert.Equal(t, "d/2", documents(found)[0])
	assert.InDelta(t, 1.0/62+1.0/62, found[0].Score, 1e-12)
}

func testLimits(t *testing.T, c *index.Client) {
	rng := random()
	x := ensure(t, c, index.Schema{M: 1, H: 4})
	q := Memory(rng, 1, 4)
	found, err := x.SearchHybrid(t.Context(), q, "empty", 5, index.Filter{})
	require.NoError(t, err, "an empty index is no error")
	assert.Empty(t, found)
	n, err := x.Count(t.Context(), index.Filter{})
	require.NoError(t, err)
	assert.Zero(t, n)

	require.NoError(t, x.Upsert(t.Context(), []index.Point{{Passage: Passage("d", 0, "one"), Memory: q}}))
	found, err = x.SearchMemory(t.Context(), q, 1000, index.Filter{})
	require.NoError(t, err, "k above the number of points is no error")
	require.Len(t, found, 1)
	assert.InDelta(t, 1, found[0].Score, 1e-3)
	require.NoError(t, x.Upsert(t.Context(), nil))
}

func testFilter(t *testing.T, c *index.Client) {
	rng := random()
	x := ensure(t, c, index.Schema{M: 1, H: 4})
	var points []index.Point
	for d := range 4 {
		for i := range 3 {
			p := Passage(fmt.Sprintf("d%d", d), i, fmt.Sprintf("word %d %d", d, i))
			if d == 3 {
				p.Collection = "other"
			}
			points = append(points, index.Point{Passage: p, Set: fmt.Sprintf("set%d", i), Revision: int64(d + 1), Memory: Memory(rng, 1, 4)})
		}
	}
	require.NoError(t, x.Upsert(t.Context(), points))
	for _, f := range []struct {
		name   string
		filter index.Filter
		want   int
	}{
		{"all", index.Filter{}, 12},
		{"collection", index.Filter{Collection: "handbook"}, 9},
		{"documents", index.Filter{Documents: []string{"d0", "d3", "none"}}, 6},
		{"excluded", index.Filter{Collection: "handbook", ExcludeDocuments: []string{"d0", "d1"}}, 3},
		{"set", index.Filter{Set: "set1"}, 4},
		{"not set", index.Filter{ExcludeSet: "set1"}, 8},
		{"revision", index.Filter{RevisionBelow: 3}, 6},
		{"together", index.Filter{Collection: "handbook", Documents: []string{"d1", "d2"}, ExcludeSet: "set0", RevisionBelow: 3}, 2},
		{"nothing", index.Filter{Collection: "nobody"}, 0},
	} {
		t.Run(f.name, func(t *testing.T) {
			n, err := x.Count(t.Context(), f.filter)
			require.NoError(t, err)
			assert.Equal(t, f.want, n)
			found, err := x.SearchMemory(t.Context(), points[0].Memory, 100, f.filter)
			require.NoError(t, err)
			assert.Len(t, found, f.want)
			found, err = x.SearchText(t.Context(), "word", 100, f.filter)
			require.NoError(t, err)
			assert.Len(t, found, f.want)
		})
	}
}

func testDeletion(t *testing.T, c *index.Client) {
	rng := random()
	x := ensure(t, c, index.Schema{M: 1, H: 4})
	var points []index.Point
	for i := range 20 {
		points = append(points, index.Point{Passage: Passage(fmt.Sprintf("d%d", i%4), i, "shared words"), Memory: Memory(rng, 1, 4)})
	}
	require.NoError(t, x.Upsert(t.Context(), points))
	seen := func() map[string]bool {
		all := map[string]bool{}
		m, err := x.SearchMemory(t.Context(), points[0].Memory, 100, index.Filter{})
		require.NoError(t, err)
		l, err := x.SearchText(t.Context(), "shared", 100, index.Filter{})
		require.NoError(t, err)
		assert.Len(t, l, len(m))
		for _, f := range slices.Concat(m, l) {
			all[f.Passage.Document] = true
		}
		return all
	}
	require.NoError(t, x.Delete(t.Context(), index.Filter{Documents: []string{"d1"}}))
	assert.Equal(t, map[string]bool{"d0": true, "d2": true, "d3": true}, seen(), "gone at once")

	id := index.PointID(x.Name(), points[0].Passage)
	require.NoError(t, x.DeletePoints(t.Context(), []string{id, uuid.NewString()}))
	_, err := x.Get(t.Context(), []string{id})
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	_, err = x.Memories(t.Context(), []string{id})
	assert.ErrorContains(t, err, id)
	n, err := x.Count(t.Context(), index.Filter{})
	require.NoError(t, err)
	assert.Equal(t, 14, n)
	assert.Equal(t, clara.Invalid, clara.KindOf(x.Delete(t.Context(), index.Filter{})), "an empty filter does not empty the index")
}

func testUpsertTwice(t *testing.T, c *index.Client) {
	rng := random()
	x := ensure(t, c, index.Schema{M: 1, H: 4})
	p := index.Point{Passage: Passage("d", 0, "same passage"), Memory: Memory(rng, 1, 4), Revision: 1}
	for revision := range int64(3) {
		p.Revision = revision
		require.NoError(t, x.Upsert(t.Context(), []index.Point{p, p}))
	}
	got, err := x.Passages(t.Context(), "handbook", "d")
	require.NoError(t, err)
	require.Len(t, got, 1)
	assert.EqualValues(t, 2, got[0].Revision)
	found, err := x.SearchText(t.Context(), "same", 10, index.Filter{})
	require.NoError(t, err)
	assert.Len(t, found, 1)
}

func testScroll(t *testing.T, c *index.Client) {
	x := ensure(t, c, index.Schema{})
	want := map[string]bool{}
	var points []index.Point
	for i := range 1300 {
		p := index.Point{Passage: Passage("d", i, fmt.Sprintf("n%d", i)), Set: "s"}
		points = append(points, p)
		want[index.PointID(x.Name(), p.Passage)] = true
	}
	require.NoError(t, x.Upsert(t.Context(), points))
	last := ""
	for p, err := range x.ScrollRefs(t.Context(), index.Filter{Set: "s"}) {
		require.NoError(t, err)
		assert.Less(t, last, p.PointID, "in the order of ids")
		assert.Empty(t, p.Passage.Text)
		assert.NotEmpty(t, p.Passage.Hash)
		last = p.PointID
		delete(want, p.PointID)
	}
	assert.Empty(t, want, "each point comes")
	for range x.Scroll(t.Context(), index.Filter{}) {
		break // leaving early is fine
	}
}

// clustered draws memories as documents of related passages have them: some near each other, some alone.
func clustered(rng *rand.Rand, n, m, h int) []clara.Memory {
	centres := make([]clara.Memory, 200)
	for i := range centres {
		centres[i] = Memory(rng, m, h)
	}
	out := make([]clara.Memory, n)
	for i := range out {
		out[i] = Memory(rng, m, h)
		if i%2 == 0 {
			out[i] = add(out[i], centres[rng.IntN(len(centres))], 1.5)
		}
	}
	return out
}

func fill(t *testing.T, x *index.Index, memories []clara.Memory) {
	t.Helper()
	var points []index.Point
	for i, m := range memories {
		points = append(points, index.Point{Passage: Passage("d", i, fmt.Sprintf("t%d", i)), Memory: m})
		if len(points) == 1000 || i == len(memories)-1 {
			require.NoError(t, x.Upsert(t.Context(), points))
			points = nil
		}
	}
}

// recall returns which part of the k best by brute force on memories a search finds, over several questions. Scores
// may differ by delta; levelled: the questions' slots are about as long as each other.
func recall(t *testing.T, x *index.Index, rng *rand.Rand, memories []clara.Memory, questions, k int, delta float64, levelled bool) float64 {
	t.Helper()
	hits := 0
	for i := range questions {
		noise := Memory(rng, memories[0].M, memories[0].H)
		if levelled {
			level(rng, noise)
		}
		q := add(noise, memories[rng.IntN(len(memories))], []float32{0, 0.5, 1, 3}[i%4])
		type scored struct {
			at    int
			score float64
		}
		all := make([]scored, len(memories))
		for j, m := range memories {
			all[j] = scored{j, cosine(q, m)}
		}
		slices.SortFunc(all, func(a, b scored) int {
			if a.score > b.score {
				return -1
			}
			return 1
		})
		best := map[int]float64{}
		for _, s := range all[:k] {
			best[s.at] = s.score
		}
		found, err := x.SearchMemory(t.Context(), q, k, index.Filter{Collection: "handbook"})
		require.NoError(t, err)
		require.Len(t, found, k)
		for _, f := range found {
			if score, ok := best[f.Passage.Ordinal]; ok {
				hits++
				assert.InDelta(t, score, f.Score, delta)
			}
		}
	}
	return float64(hits) / float64(questions*k)
}

func testRecall(t *testing.T, c *index.Client) {
	rng := random()
	x := ensure(t, c, index.Schema{M: 4, H: 48})
	memories := clustered(rng, 10_000, 4, 48)
	fill(t, x, memories)
	r := recall(t, x, rng, memories, 40, 20, 0x1p-11, false) // what rounding to half precision can do
	t.Logf("recall@20 over 10,000 memories of %d values: %.4f", 4*48, r)
	assert.GreaterOrEqual(t, r, 0.99)
}

func testRecallByKey(t *testing.T, c *index.Client) {
	rng := random()
	s := index.Schema{M: 4, H: 512, Key: index.Key{Dims: 512, Seed: 3}}
	x := ensure(t, c, s)
	memories := clustered(rng, 2000, s.M, s.H)
	fill(t, x, memories)
	// Questions about something: the best stand out from the rest, as the key needs it.
	hits := 0
	for i := range 40 {
		at := rng.IntN(len(memories))
		found, err := x.SearchMemory(t.Context(), add(memories[at], Memory(rng, s.M, s.H), 0.7), 5, index.Filter{})
		require.NoError(t, err)
		require.Len(t, found, 5)
		if found[0].Passage.Ordinal == at {
			hits++
		}
		assert.True(t, slices.IsSortedFunc(found, func(a, b clara.Candidate) int {
			if a.Score > b.Score {
				return -1
			}
			return 1
		}), "question %d", i)
	}
	assert.GreaterOrEqual(t, hits, 39)
}

func testLargeMemory(t *testing.T, c *index.Client) {
	rng := random()
	s := index.Schema{M: 64, H: 4096}
	x := ensure(t, c, s)
	require.Equal(t, index.DefaultKeyDims, x.Schema().Key.Dims)
	var points []index.Point
	var ids []string
	for i := range 12 {
		p := Passage("big", i, fmt.Sprintf("big %d", i))
		points = append(points, index.Point{Passage: p, Memory: Memory(rng, s.M, s.H)})
		ids = append(ids, index.PointID(x.Name(), p))
	}
	require.NoError(t, x.Upsert(t.Context(), points))
	q := add(points[7].Memory, points[3].Memory, 0.4)
	found, err := x.SearchMemory(t.Context(), q, 2, index.Filter{})
	require.NoError(t, err)
	assert.Equal(t, []string{"big/7", "big/3"}, documents(found))
	for _, f := range found {
		assert.InDelta(t, cosine(q, points[f.Passage.Ordinal].Memory), f.Score, 1e-4)
	}
	got, err := x.Memories(t.Context(), ids)
	require.NoError(t, err)
	for i, m := range got {
		assert.InDelta(t, 1, cosine(points[i].Memory, m), 1e-6)
	}

	_, err = c.Ensure(t.Context(), "suite-too-large", index.Schema{M: 1024, H: 4096})
	assert.Equal(t, clara.Unsupported, clara.KindOf(err))
	assert.ErrorContains(t, err, "[1024, 4096]")
}

// testCodesRoundTrip: each slot comes back in its direction and length, whatever the sizes of the others.
func testCodesRoundTrip(t *testing.T, c *index.Client) {
	rng := random()
	for _, s := range []struct {
		index.Schema
		least, short float64 // cosine of a slot; how much shorter it may be
	}{
		{index.Schema{M: 16, H: 576, Memories: index.Int8}, 0.998, 0.004},
		{index.Schema{M: 16, H: 576, Memories: index.Int4}, 0.991, 0.015},
		{index.Schema{M: 3, H: 257, Memories: index.Int4}, 0.985, 0.03}, // an odd slot
		{index.Schema{M: 3, H: 100, Memories: index.Int8, Key: index.Key{Dims: 64}}, 0.998, 0.004},
		{index.Schema{M: 6, H: 100, Memories: index.Int4, Key: index.Key{Dims: 64}}, 0.98, 0.03},
		{index.Schema{M: 1, H: 1, Memories: index.Int8}, 0.999, 1e-6},
		{index.Schema{M: 1, H: 1, Memories: index.Int4}, 0.999, 1e-6},
	} {
		t.Run(fmt.Sprintf("%s %dx%d", s.Memories, s.M, s.H), func(t *testing.T) {
			x := ensure(t, c, s.Schema)
			var points []index.Point
			var ids []string
			for i, factor := range []float32{1, 1e-6, 3e7, 0} {
				m := Memory(rng, s.M, s.H)
				for j := range m.Data {
					m.Data[j] *= factor * float32(1+j/s.H%2) // every other slot is twice as long
				}
				p := Passage("a", i, fmt.Sprintf("text %d", i))
				points = append(points, index.Point{Passage: p, Memory: m})
				ids = append(ids, index.PointID(x.Name(), p))
			}
			require.NoError(t, x.Upsert(t.Context(), points))
			got, err := x.Memories(t.Context(), ids)
			require.NoError(t, err)
			for i, m := range got {
				stored, err := s.Stored(points[i].Memory)
				require.NoError(t, err)
				require.Equal(t, stored, m, "what Stored says")
				for j := range s.M {
					want := clara.Memory{M: 1, H: s.H, Data: points[i].Memory.Row(j)}
					have := clara.Memory{M: 1, H: s.H, Data: m.Row(j)}
					if i == 3 {
						require.Equal(t, make([]float32, s.H), have.Data, "zero stays zero")
						continue
					}
					require.GreaterOrEqual(t, cosine(want, have), s.least, "point %d, slot %d", i, j)
					require.InEpsilon(t, norm(want), norm(have), s.short, "point %d, slot %d", i, j)
				}
			}
			found, err := x.SearchMemory(t.Context(), points[0].Memory, 10, index.Filter{})
			require.NoError(t, err)
			require.Len(t, found, 4)
			for _, f := range found {
				// Scores are cosines with the memory as it is kept.
				assert.InDelta(t, cosine(points[0].Memory, got[f.Passage.Ordinal]), f.Score, 1e-5)
			}
		})
	}
}

func norm(m clara.Memory) float64 {
	var sum float64
	for _, x := range m.Data {
		sum += float64(x) * float64(x)
	}
	return math.Sqrt(sum)
}

// level makes the slots of a memory about as long as each other, as a model's final norm does.
func level(rng *rand.Rand, m clara.Memory) {
	for i := range m.M {
		row := m.Row(i)
		scale := float32((1 + 0.1*rng.NormFloat64()) / norm(clara.Memory{Data: row}))
		for j := range row {
			row[j] *= scale
		}
	}
}

// testCodesRecall: a search finds what brute force finds, among memories as they are kept and among the originals.
func testCodesRecall(t *testing.T, c *index.Client) {
	for _, s := range []struct {
		p         index.Precision
		kept, all float64 // recall@20, the first of an exact search
	}{{index.Int8, 0.99, 0.98}, {index.Int4, 0.99, 0.75}} {
		t.Run(s.p.String(), func(t *testing.T) {
			rng := random()
			const m, h, n = 4, 144, 4000
			x := ensure(t, c, index.Schema{M: m, H: h, Memories: s.p})
			memories := clustered(rng, n, m, h)
			for _, memory := range memories {
				level(rng, memory)
			}
			fill(t, x, memories)
			kept := make([]clara.Memory, n)
			for i, memory := range memories {
				var err error
				kept[i], err = x.Schema().Stored(memory)
				require.NoError(t, err)
			}
			r := recall(t, x, rng, kept, 40, 20, 1e-5, true)
			original := recall(t, x, rng, memories, 40, 20, 0.02, true)
			t.Logf("recall@20 over %d memories of %d values: %.4f of those kept, %.4f of the originals", n, m*h, r, original)
			if x.Exact() {
				assert.GreaterOrEqual(t, r, s.kept)
			}
			assert.GreaterOrEqual(t, original, s.all)
		})
	}
}

// testCodesLarge: memories of more bytes than a vector takes.
func testCodesLarge(t *testing.T, c *index.Client) {
	for _, s := range []index.Schema{{M: 20, H: 4096, Memories: index.Int8}, {M: 40, H: 4096, Memories: index.Int4}} {
		t.Run(s.Memories.String(), func(t *testing.T) {
			rng := random()
			x := ensure(t, c, s)
			require.True(t, s.Split())
			require.Equal(t, index.DefaultKeyDims, x.Schema().Key.Dims)
			var points []index.Point
			for i := range 9 {
				points = append(points, index.Point{Passage: Passage("big", i, fmt.Sprintf("big %d", i)), Memory: Memory(rng, s.M, s.H)})
			}
			require.NoError(t, x.Upsert(t.Context(), points))
			q := add(points[7].Memory, points[3].Memory, 0.4)
			found, err := x.SearchMemory(t.Context(), q, 2, index.Filter{})
			require.NoError(t, err)
			assert.Equal(t, []string{"big/7", "big/3"}, documents(found))
			for _, f := range found {
				assert.InDelta(t, cosine(q, points[f.Passage.Ordinal].Memory), f.Score, 0.01)
			}
		})
	}
}

func testAliasMoves(t *testing.T, c *index.Client) {
	rng := random()
	alias := "suite-" + uuid.NewString()
	schemas := []index.Schema{{M: 1, H: 4}, {M: 2, H: 6}}
	var indexes []*index.Index
	var queries []clara.Memory
	for i, s := range schemas {
		x := ensure(t, c, s)
		q := Memory(rng, s.M, s.H)
		require.NoError(t, x.Upsert(t.Context(), []index.Point{{Passage: Passage(fmt.Sprintf("in%d", i), 0, "x"), Memory: q}}))
		indexes, queries = append(indexes, x), append(queries, q)
	}
	require.NoError(t, c.Alias(t.Context(), alias, indexes[0].Name()))
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				x, err := c.Index(t.Context(), alias)
				if !assert.NoError(t, err) {
					return
				}
				at := x.Schema().M - 1
				found, err := x.SearchMemory(t.Context(), queries[at], 5, index.Filter{})
				if !assert.NoError(t, err) || !assert.Equal(t, []string{fmt.Sprintf("in%d/0", at)}, documents(found)) {
					return
				}
			}
		})
	}
	for i := range 20 {
		assert.NoError(t, c.Alias(t.Context(), alias, indexes[(i+1)%2].Name()))
	}
	close(done)
	wg.Wait()
	aliases, err := c.Aliases(t.Context())
	require.NoError(t, err)
	assert.Equal(t, indexes[0].Name(), aliases[alias])
	require.NoError(t, c.DropAlias(t.Context(), alias))
	require.NoError(t, c.DropAlias(t.Context(), alias))
	_, err = c.Index(t.Context(), alias)
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	assert.Equal(t, clara.NotFound, clara.KindOf(c.Alias(t.Context(), alias, "suite-nowhere")))
}

func testWritersAndReaders(t *testing.T, c *index.Client) {
	x := ensure(t, c, index.Schema{M: 2, H: 16})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			document := fmt.Sprintf("w%d", w)
			for round := range 10 {
				var points []index.Point
				for i := range 10 {
					points = append(points, index.Point{Passage: Passage(document, i, fmt.Sprintf("round %d", round)), Revision: int64(round + 1), Memory: Memory(rng, 2, 16)})
				}
				assert.NoError(t, x.Upsert(t.Context(), points))
				found, err := x.SearchMemory(t.Context(), points[3].Memory, 3, index.Filter{Documents: []string{document}})
				if assert.NoError(t, err) && assert.NotEmpty(t, found) {
					assert.Equal(t, 3, found[0].Passage.Ordinal, "a write is seen by the search after it")
				}
				assert.NoError(t, x.Delete(t.Context(), index.Filter{Documents: []string{document}, RevisionBelow: int64(round + 1)}))
				n, err := x.Count(t.Context(), index.Filter{Documents: []string{document}})
				assert.NoError(t, err)
				assert.Equal(t, 10, n)
				for p, err := range x.ScrollRefs(t.Context(), index.Filter{}) {
					assert.NoError(t, err)
					assert.NotEmpty(t, p.PointID)
				}
			}
		})
	}
	wg.Wait()
	n, err := x.Count(t.Context(), index.Filter{})
	require.NoError(t, err)
	assert.Equal(t, 40, n)
}

func testFaults(t *testing.T, c *index.Client) {
	rng := random()
	ctx := t.Context()
	x := ensure(t, c, index.Schema{M: 2, H: 3})
	plain := ensure(t, c, index.Schema{})
	nan := Memory(rng, 2, 3)
	nan.Data[4] = float32(math.NaN())
	huge := Memory(rng, 2, 3)
	huge.Data[0] = math.MaxFloat32
	point := func(m clara.Memory) []index.Point {
		return []index.Point{{Passage: Passage("d", 0, "x"), Memory: m}}
	}
	search := func(x *index.Index, m clara.Memory, k int) error {
		_, err := x.SearchMemory(ctx, m, k, index.Filter{})
		return err
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, cancelErr := x.Count(cancelled, index.Filter{})
	assert.True(t, clara.IsContext(cancelErr), "%v", cancelErr)
	assert.NoError(t, x.Upsert(ctx, point(huge)), "large finite numbers are fine")

	_, memoriesErr := plain.Memories(ctx, []string{uuid.NewString()})
	_, missingErr := x.Get(ctx, []string{uuid.NewString()})
	_, indexErr := c.Index(ctx, "suite-nowhere")
	_, nameErr := c.Ensure(ctx, "suite/../x", index.Schema{})
	_, schemaErr := c.Ensure(ctx, "suite-bad", index.Schema{M: 1})
	for _, f := range []struct {
		name string
		err  error
		kind clara.Kind
	}{
		{"shape of a point", x.Upsert(ctx, point(Memory(rng, 3, 2))), clara.State},
		{"no memory", x.Upsert(ctx, point(clara.Memory{})), clara.State},
		{"memory for text only", plain.Upsert(ctx, point(nan)), clara.State},
		{"NaN", x.Upsert(ctx, point(nan)), clara.Invalid},
		{"torn memory", x.Upsert(ctx, point(clara.Memory{M: 2, H: 3, Data: make([]float32, 5)})), clara.Corrupt},
		{"no document", x.Upsert(ctx, []index.Point{{Memory: huge}}), clara.Invalid},
		{"shape of a question", search(x, Memory(rng, 1, 3), 3), clara.State},
		{"NaN in a question", search(x, nan, 3), clara.Invalid},
		{"k of 0", search(x, huge, 0), clara.Invalid},
		{"memory search of text only", search(plain, huge, 1), clara.State},
		{"memories of text only", memoriesErr, clara.State},
		{"no such point", missingErr, clara.NotFound},
		{"no such index", indexErr, clara.NotFound},
		{"bad name", nameErr, clara.Invalid},
		{"bad schema", schemaErr, clara.Invalid},
		{"passage too large", plain.Upsert(ctx, []index.Point{{Passage: Passage("d", 0, string(make([]byte, 6<<20)))}}), clara.Unsupported},
	} {
		t.Run(f.name, func(t *testing.T) { assert.Equal(t, f.kind, clara.KindOf(f.err), "%v", f.err) })
	}
}
