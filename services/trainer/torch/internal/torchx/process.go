package torchx

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"time"
	"unsafe"

	"github.com/clara-suite/clara/libs/clara"
)

// Version is that of the libtorch headers the program was built with.
func Version() string {
	var buf [64]C.char
	check(C.cx_version(&buf[0], C.int(len(buf))))
	return C.GoString(&buf[0])
}

// SetThreads sets how many threads an operator may use on the CPU; n <= 0 leaves libtorch's choice.
func SetThreads(n int) {
	if n > 0 {
		C.cx_set_threads(C.int(n))
	}
}

// Threads is the number of threads an operator may use on the CPU.
func Threads() int { return int(C.cx_get_threads()) }

// Seed sets the state of the default generators, of every device.
func Seed(seed uint64) { check(C.cx_seed(C.uint64_t(seed))) }

// RandPerm is torch.randperm(n) of a fresh generator with that seed: the reference's sample order.
func RandPerm(seed int64, n int) []int64 {
	if n == 0 {
		return nil
	}
	out := make([]int64, n)
	check(C.cx_randperm(C.int64_t(seed), C.int64_t(n), (*C.int64_t)(unsafe.Pointer(&out[0]))))
	return out
}

// Devices loads libtorch's CUDA library and returns the number of usable devices; the error says why there are none.
func Devices() (int, error) {
	if err := text(C.cx_load_cuda()); err != nil {
		return 0, clara.Errorf(clara.Unavailable, "load libtorch_cuda: %s (scripts/deps-torch.sh cuda sets it up)", err)
	}
	return int(C.cx_cuda_devices()), nil
}

// CUDAMemory returns the bytes that libtorch's allocator holds on a device, now and at most.
func CUDAMemory(d Device) (now, peak int64) {
	var n, p C.int64_t
	check(C.cx_cuda_memory(C.int(d), &n, &p))
	return int64(n), int64(p)
}

// CUDAFree returns the bytes that a device can still give, to anyone.
func CUDAFree(d Device) (int64, error) {
	var n C.int64_t
	if err := text(C.cx_cuda_free(C.int(d), &n)); err != nil {
		return 0, clara.Errorf(clara.Unavailable, "ask for the free memory of %s: %w", d, err)
	}
	return int64(n), nil
}

// Sync waits until a device has done what was asked of it.
func Sync(d Device) { check(C.cx_sync(C.int(d))) }

// SetAttention chooses which attention kernels may be used; all by default.
func SetAttention(flash, efficient, math bool) {
	check(C.cx_sdp(flag(flash), flag(efficient), flag(math)))
}

// Deterministic asks for operators that give the same result every time.
func Deterministic(on bool) { C.cx_deterministic(flag(on)) }

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// Group is a set of processes that call collectives together. Its calls block, and fail once the time-out has passed.
type Group struct {
	store, group unsafe.Pointer
	Rank, World  int
	device       Device
}

// Join meets the other ranks at host:port, where rank 0 serves the store. backend is "gloo" or "nccl"; iface, for Gloo, is the
// network interface or address to bind ("" lets Gloo choose). An unreachable master is Unavailable.
func Join(backend, iface, host string, port, rank, world int, device Device, timeout time.Duration) (*Group, error) {
	g := &Group{Rank: rank, World: world, device: device}
	h, b, i := C.CString(host), C.CString(backend), C.CString(iface)
	defer C.free(unsafe.Pointer(h))
	defer C.free(unsafe.Pointer(b))
	defer C.free(unsafe.Pointer(i))
	ms := C.int(timeout.Milliseconds())
	if err := text(C.cx_store(h, C.int(port), C.int(world), flag(rank == 0), ms, &g.store)); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "rank %d: reach the master at %s:%d within %s: %s", rank, host, port, timeout, err)
	}
	if err := text(C.cx_group(b, i, g.store, C.int(rank), C.int(world), ms, &g.group)); err != nil {
		C.cx_free_store(g.store)
		return nil, clara.Errorf(clara.Unavailable, "rank %d: join %d ranks over %s: %s", rank, world, backend, err)
	}
	return g, nil
}

// AllReduce sums every tensor over the ranks, in place.
func (g *Group) AllReduce(ts []*Tensor) error {
	p, n := handles(ts)
	return g.lost("all-reduce", C.cx_all_reduce(g.group, p, n))
}

// Sum adds up numbers over the ranks.
func (g *Group) Sum(v []float64) error {
	if len(v) == 0 {
		return nil
	}
	return g.lost("sum", C.cx_all_reduce_f64(g.group, C.int(g.device), (*C.double)(unsafe.Pointer(&v[0])), C.int(len(v))))
}

// Broadcast gives every rank the tensors of root.
func (g *Group) Broadcast(root int, ts []*Tensor) error {
	p, n := handles(ts)
	return g.lost("broadcast", C.cx_broadcast(g.group, p, n, C.int(root)))
}

// AllGather puts in [n] of every rank one after another into out [ranks * n].
func (g *Group) AllGather(out, in *Tensor) error {
	return g.lost("all-gather", C.cx_all_gather(g.group, in.p(), out.p()))
}

// Barrier waits for all ranks.
func (g *Group) Barrier() error { return g.lost("barrier", C.cx_barrier(g.group)) }

// Close leaves the group.
func (g *Group) Close() {
	C.cx_free_group(g.group)
	C.cx_free_store(g.store)
}

func (g *Group) lost(what string, e *C.char) error {
	if err := text(e); err != nil {
		return clara.Errorf(clara.Unavailable, "rank %d of %d: %s: a peer is lost or slow: %s", g.Rank, g.World, what, err)
	}
	return nil
}
