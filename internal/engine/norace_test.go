//go:build !race

package engine_test

// defaultSeeds is how many simulations run.
const defaultSeeds = 8
