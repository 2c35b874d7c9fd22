package infer

import (
	"bufio"
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

// A step over one stream reads every weight once, so it runs at the rate of the memory, and with pages of
// 4 KiB a quarter of that is lost on looking up pages. The runtime takes its memory from the C library,
// which asks for no large pages, and most systems give them only to who asks.

const (
	smallPage    = 4 << 10
	largePage    = 2 << 20
	advHugepage  = 14 // MADV_HUGEPAGE
	advCollapse  = 25 // MADV_COLLAPSE, Linux 6.1
	leastMapping = 4 * largePage
)

// span is a range of addresses.
type span struct{ from, to uintptr }

// anonymous lists the large private writable mappings without a file, which is where weights lie. Where
// this cannot be read there are none: large pages are a matter of speed alone.
func anonymous() map[span]bool {
	if os.Getpagesize() != smallPage {
		return nil // its large pages are of another size
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil
	}
	defer f.Close()
	found := map[span]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var s span
		var mode, offset, device, name string
		var inode uint64
		n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s %s %s %d %s", &s.from, &s.to, &mode, &offset, &device, &inode, &name)
		if n >= 6 && mode == "rw-p" && inode == 0 && (name == "" || name == "[heap]") && s.to-s.from >= leastMapping {
			found[s] = true
		}
	}
	return found
}

// enlarge puts the mappings that are new since before on large pages, now where the system can, else as
// its background thread comes by.
func enlarge(before map[span]bool) {
	for s := range anonymous() {
		if before[s] {
			continue
		}
		from, to := (s.from+largePage-1)&^(largePage-1), s.to&^(largePage-1)
		if from >= to {
			continue
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, from, to-from, advHugepage); errno != 0 {
			continue
		}
		// In parts: pages that were never written stay unmapped, and a part that fails is not the end.
		for at := from; at < to; at += largePage {
			if resident(at) {
				syscall.Syscall(syscall.SYS_MADVISE, at, largePage, advCollapse)
			}
		}
	}
}

// resident reports whether most of the pages of a large page are in memory.
func resident(at uintptr) bool {
	var in [largePage / smallPage]byte
	if _, _, errno := syscall.Syscall(syscall.SYS_MINCORE, at, largePage, uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
		return false
	}
	n := 0
	for _, b := range in {
		n += int(b & 1)
	}
	return 2*n > len(in)
}
