//go:build race

package api

// raceDetector reports whether the tests run with the race detector.
const raceDetector = true
