package arch

import (
	"math"

	"github.com/clara-suite/clara/libs/clara"
)

// Kinds of rotary scaling.
const (
	RopeDefault  = "default"  // none
	RopeLinear   = "linear"   // all frequencies divided by Factor
	RopeLlama3   = "llama3"   // low frequencies divided by Factor, with a smooth passage
	RopeYarn     = "yarn"     // interpolation by wavelength
	RopeLongRope = "longrope" // one factor a frequency, short or long by length
	RopeFactors  = "factors"  // one factor a frequency (GGUF's rope_freqs)
)

// Rope is a rotary position embedding: the first Dim of each head's HeadDim
// values are rotated, value i with value i + Dim/2.
type Rope struct {
	Kind  string
	Theta float64
	Dim   int // rotated values of a head

	Factor               float64   // linear, llama3, yarn
	LowFreqFactor        float64   // llama3
	HighFreqFactor       float64   // llama3
	OriginalPositions    int       // llama3, yarn, longrope: the length of pre-training
	BetaFast, BetaSlow   float64   // yarn
	MScale, MScaleAllDim float64   // yarn; 0 is absent
	NoTruncate           bool      // yarn: correction range not rounded to whole dimensions
	AttentionFactor      float64   // yarn, longrope: factor on cos and sin; 0 means computed
	ShortFactors         []float64 // longrope up to OriginalPositions; factors
	LongFactors          []float64 // longrope beyond
	MaxPositions         int       // longrope: the extended length
}

func (r Rope) check(headDim int) error {
	bad := func(format string, args ...any) error {
		return clara.Errorf(clara.Corrupt, "rotary embedding: "+format, args...)
	}
	if !(r.Theta > 0) || math.IsInf(r.Theta, 0) {
		return bad("rope_theta is %g", r.Theta)
	}
	if r.Dim <= 0 || r.Dim > headDim || r.Dim%2 != 0 {
		return bad("%d rotated dimensions (head_dim x partial_rotary_factor) do not fit a head of %d", r.Dim, headDim)
	}
	switch r.Kind {
	case RopeDefault:
	case RopeLinear, RopeLlama3, RopeYarn:
		if !(r.Factor > 0) {
			return bad("%s: factor is %g", r.Kind, r.Factor)
		}
		if r.Kind == RopeLlama3 && (r.OriginalPositions <= 0 || !(r.LowFreqFactor > 0) || !(r.HighFreqFactor > r.LowFreqFactor)) {
			return bad("llama3: original_max_position_embeddings %d, low_freq_factor %g, high_freq_factor %g", r.OriginalPositions, r.LowFreqFactor, r.HighFreqFactor)
		}
		if r.Kind == RopeYarn && (r.OriginalPositions <= 0 || r.Theta == 1 || !(r.BetaFast > 0) || !(r.BetaSlow > 0)) {
			return bad("yarn: original_max_position_embeddings %d, rope_theta %g, beta_fast %g, beta_slow %g", r.OriginalPositions, r.Theta, r.BetaFast, r.BetaSlow)
		}
	case RopeLongRope:
		if len(r.ShortFactors) != r.Dim/2 || len(r.LongFactors) != r.Dim/2 {
			return bad("longrope: %d short and %d long factors where %d frequencies need one each", len(r.ShortFactors), len(r.LongFactors), r.Dim/2)
		}
		if r.OriginalPositions <= 1 {
			return bad("longrope: original_max_position_embeddings is %d", r.OriginalPositions)
		}
	case RopeFactors:
		if len(r.ShortFactors) != r.Dim/2 {
			return bad("%d factors where %d frequencies need one each", len(r.ShortFactors), r.Dim/2)
		}
	default:
		return clara.Errorf(clara.Unsupported, "rotary embedding: rope_scaling type %q is not supported", r.Kind)
	}
	return nil
}

// Frequencies returns the Dim/2 inverse frequencies and the factor on cos and
// sin, for sequences of up to length positions (it matters for longrope only;
// the choice holds for the whole sequence). Rounding is that of transformers,
// which computes in float32. The angle of position p and pair i is p*inv[i].
func (r Rope) Frequencies(length int) (inv []float32, scale float32) {
	inv = make([]float32, r.Dim/2)
	for i := range inv {
		inv[i] = 1 / r.power(i)
	}
	switch r.Kind {
	case RopeLinear:
		for i := range inv {
			inv[i] /= float32(r.Factor)
		}
	case RopeLlama3:
		r.llama3(inv)
	case RopeYarn:
		r.yarn(inv)
		return inv, float32(r.yarnScale())
	case RopeLongRope:
		factors := r.ShortFactors
		if length > r.OriginalPositions {
			factors = r.LongFactors
		}
		for i := range inv {
			inv[i] = 1 / (float32(factors[i]) * r.power(i))
		}
		return inv, float32(r.longScale())
	case RopeFactors:
		for i := range inv {
			inv[i] /= float32(r.ShortFactors[i])
		}
		if r.AttentionFactor != 0 {
			return inv, float32(r.AttentionFactor)
		}
	}
	return inv, 1
}

// power returns Theta^(2i/Dim), rounded to float32 where transformers rounds.
func (r Rope) power(i int) float32 {
	return float32(math.Pow(r.Theta, float64(float32(2*i)/float32(r.Dim))))
}

func (r Rope) llama3(inv []float32) {
	old := float64(r.OriginalPositions)
	low, high := float32(old/r.LowFreqFactor), float32(old/r.HighFreqFactor)
	factor := float32(r.Factor)
	for i, f := range inv {
		wavelen := float32(2*math.Pi) / f
		switch {
		case wavelen > low:
			inv[i] = f / factor
		case wavelen >= high:
			smooth := (float32(old)/wavelen - float32(r.LowFreqFactor)) / float32(r.HighFreqFactor-r.LowFreqFactor)
			inv[i] = (1-smooth)*f/factor + smooth*f
		}
	}
}

func (r Rope) yarn(inv []float32) {
	// The dimension whose wavelength makes the given number of turns over the original length.
	dimOf := func(turns float64) float64 {
		return float64(r.Dim) * math.Log(float64(r.OriginalPositions)/(turns*2*math.Pi)) / (2 * math.Log(r.Theta))
	}
	low, high := dimOf(r.BetaFast), dimOf(r.BetaSlow)
	if !r.NoTruncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(r.Dim-1))
	if low == high {
		high += 0.001
	}
	for i, f := range inv {
		ramp := min(max((float32(i)-float32(low))/float32(high-low), 0), 1)
		keep := 1 - ramp
		inv[i] = 1/(float32(r.Factor)*r.power(i))*(1-keep) + f*keep
	}
}

func (r Rope) yarnScale() float64 {
	if r.AttentionFactor != 0 {
		return r.AttentionFactor
	}
	mscale := func(by float64) float64 {
		if r.Factor <= 1 {
			return 1
		}
		return 0.1*by*math.Log(r.Factor) + 1
	}
	if r.MScale != 0 && r.MScaleAllDim != 0 {
		return mscale(r.MScale) / mscale(r.MScaleAllDim)
	}
	return mscale(1)
}

func (r Rope) longScale() float64 {
	if r.AttentionFactor != 0 {
		return r.AttentionFactor
	}
	factor := r.Factor
	if r.MaxPositions > 0 {
		factor = float64(r.MaxPositions) / float64(r.OriginalPositions)
	}
	if factor <= 1 {
		return 1
	}
	return math.Sqrt(1 + math.Log(factor)/math.Log(float64(r.OriginalPositions)))
}
