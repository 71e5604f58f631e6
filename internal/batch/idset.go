package batch

import "hash/maphash"

// idSet remembers the ids of a file by their hashes, in 12 to 24 bytes an id.
type idSet struct {
	seed   maphash.Seed
	hashes []uint64 // open addressing; 0 is a free slot
	lines  []uint32
	n      int
}

func newIDSet() *idSet {
	const slots = 1 << 10
	return &idSet{seed: maphash.MakeSeed(), hashes: make([]uint64, slots), lines: make([]uint32, slots)}
}

// add adds the id of a line. It returns the line that has the id already, or 0. Two ids
// share a hash with a probability of 3e-8 in a file of a million lines.
func (s *idSet) add(id string, line int) (first int) {
	if s.n*2 >= len(s.hashes) {
		s.grow()
	}
	h := max(maphash.String(s.seed, id), 1)
	i := s.slot(h)
	if s.hashes[i] == h {
		return int(s.lines[i])
	}
	s.hashes[i], s.lines[i] = h, uint32(line)
	s.n++
	return 0
}

// slot returns the slot of a hash, or the free one where it belongs.
func (s *idSet) slot(h uint64) uint64 {
	mask := uint64(len(s.hashes) - 1)
	i := h & mask
	for s.hashes[i] != 0 && s.hashes[i] != h {
		i = (i + 1) & mask
	}
	return i
}

func (s *idSet) grow() {
	hashes, lines := s.hashes, s.lines
	s.hashes, s.lines = make([]uint64, 2*len(hashes)), make([]uint32, 2*len(lines))
	for k, h := range hashes {
		if h != 0 {
			i := s.slot(h)
			s.hashes[i], s.lines[i] = h, lines[k]
		}
	}
}
