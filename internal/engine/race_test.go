//go:build race

package engine_test

// defaultSeeds is how many simulations run with the race detector, which makes each ten
// times slower.
const defaultSeeds = 3
