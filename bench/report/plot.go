package report

import (
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// Plot is drawn as an SVG. It has bars, one set per label, or else lines or points.
type Plot struct {
	Title, X, Y string
	Labels      []string // of the sets of bars
	Bars        []Series // Y values only, one per label
	Lines       []Series
	Points      []Series
	Rows        []string // names for Y = 0, 1, ... instead of numbers
	MaxY        float64  // 0 derives it from the data
}

// Series is a named set of points.
type Series struct {
	Name string
	X, Y []float64
}

func (s Series) points() plotter.XYs {
	xy := make(plotter.XYs, len(s.Y))
	for i := range xy {
		xy[i].X, xy[i].Y = s.X[i], s.Y[i]
	}
	return xy
}

func init() {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
}

func (d *Plot) save(path string) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = d.Title, d.X, d.Y
	p.Legend.Top, p.Legend.Left = true, false
	p.Add(plotter.NewGrid())
	for i, s := range d.Bars {
		width := vg.Points(70 / float64(len(d.Bars)))
		bars, err := plotter.NewBarChart(plotter.Values(s.Y), width)
		if err != nil {
			return err
		}
		bars.LineStyle.Width = 0
		bars.Color = plotutil.Color(i)
		bars.Offset = width * vg.Length(float64(i)-float64(len(d.Bars)-1)/2)
		p.Add(bars)
		p.Legend.Add(s.Name, bars)
	}
	if len(d.Labels) > 0 {
		p.NominalX(d.Labels...)
		p.Legend.YOffs = vg.Points(-2)
	}
	for i, s := range d.Lines {
		line, err := plotter.NewLine(s.points())
		if err != nil {
			return err
		}
		line.Color, line.Width = plotutil.Color(i), vg.Points(1.5)
		p.Add(line)
		p.Legend.Add(s.Name, line)
	}
	for i, s := range d.Points {
		points, err := plotter.NewScatter(s.points())
		if err != nil {
			return err
		}
		points.Color, points.Radius = plotutil.Color(i), vg.Points(1.5)
		p.Add(points)
	}
	if len(d.Rows) > 0 {
		p.NominalY(d.Rows...)
		p.Y.Min, p.Y.Max = -0.5, float64(len(d.Rows))-0.5
	}
	if d.MaxY > 0 {
		p.Y.Min, p.Y.Max = 0, d.MaxY
	}
	return p.Save(22*vg.Centimeter, 11*vg.Centimeter, path)
}
