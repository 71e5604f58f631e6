package deploycheck_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"
)

// expressions returns the PromQL of the alerts and of the dashboard, by its name.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	text, err := os.ReadFile("../../deploy/alerts.yaml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &rules))
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			all["alert "+r.Alert] = r.Expr
		}
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text, err = os.ReadFile("../../deploy/grafana/neuronmill.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &board))
	for _, p := range board.Panels {
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			all["panel "+p.Title+": "+target.Expr] = target.Expr
		}
	}
	return all
}

// documented returns the labels of each metric in docs/metrics.md, which a test of
// internal/metrics compares with a real scrape.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	there := map[string][]string{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) > 3 && strings.HasPrefix(strings.TrimSpace(cells[1]), "`neuronmill_") {
			there[strings.Trim(cells[1], " `")] = strings.Split(strings.NewReplacer("`", "", " ", "", "-", "").Replace(cells[2]), ",")
		}
	}
	require.Greater(t, len(there), 20)
	return there
}

func TestAlertsAndDashboardAskForMetricsAndLabelsThatThereAre(t *testing.T) {
	there := documented(t)
	all := expressions(t)
	require.Greater(t, len(all), 20)
	for name, text := range all {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
		require.NoError(t, err, name)
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			if s, ok := node.(*parser.VectorSelector); ok {
				metric := s.Name
				for _, suffix := range []string{"_bucket", "_sum", "_count"} {
					metric = strings.TrimSuffix(metric, suffix)
				}
				require.Contains(t, there, metric, name)
				for _, m := range s.LabelMatchers {
					if m.Name != labels.MetricName {
						require.Contains(t, there[metric], m.Name, name)
					}
				}
			}
			return nil
		})
	}
}
