package catalogue

import "math"

// tile is the unit of area of image prices: 512 by 512 pixels.
const tile = 512 * 512

// TextNeurons returns the list price of tokens.
func (m Model) TextNeurons(in, out int) float64 {
	return (m.Price.PerMInput*float64(in) + m.Price.PerMOutput*float64(out)) / 1e6
}

// AudioNeurons returns the list price of a recording.
func (m Model) AudioNeurons(seconds float64) float64 {
	return m.Price.PerAudioMinute * seconds / 60
}

// ImageNeurons returns the price of an image; 0 for a size or steps means the model's
// default. The formula reproduces measured prices: tiles and megapixels count in
// fractions, the first megapixel in full.
func (m Model) ImageNeurons(width, height, steps int) float64 {
	or := func(n int, b Bound) float64 {
		if n > 0 {
			return float64(n)
		}
		return b.Default
	}
	area, s := or(width, m.Width)*or(height, m.Height), or(steps, m.Steps)
	p := m.Price
	if p.PerImageMP > 0 {
		return p.PerImageMP + p.PerExtraMP*math.Max(0, area/(1024*1024)-1)
	}
	return area / tile * (p.PerTile + (p.PerStep+p.PerTileStep)*s)
}
