//go:build !amd64

package roofline

func fma(loops int) float64 { return fmaScalar(loops) }
