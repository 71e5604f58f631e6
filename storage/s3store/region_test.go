package s3store

import (
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
)

// settings clears the machine's AWS settings.
func settings(t *testing.T, env map[string]string) {
	t.Helper()
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} {
		t.Setenv(name, env[name])
	}
}

func TestTheRegionIsThatOfTheURLOrOfTheAWSSettings(t *testing.T) {
	elsewhere := "&endpoint=http://127.0.0.1:9"
	for name, c := range map[string]struct {
		parameters, aws, want string
	}{
		"AWS, in the URL":            {"&region=eu-west-3", "us-west-2", "eu-west-3"},
		"AWS, by its settings":       {"", "us-west-2", "us-west-2"},
		"elsewhere, in the URL":      {elsewhere + "&region=eu-west-3", "us-west-2", "eu-west-3"},
		"elsewhere, not set":         {elsewhere, "", "auto"},
		"elsewhere, AWS has another": {elsewhere, "us-west-2", "auto"},
		"elsewhere, auto":            {elsewhere + "&region=auto", "us-west-2", "auto"},
	} {
		t.Run(name, func(t *testing.T) {
			settings(t, map[string]string{"AWS_REGION": c.aws})
			config, err := ParseURL("s3://b?path_style=true" + c.parameters)
			require.NoError(t, err)
			s, err := Open(t.Context(), config)
			require.NoError(t, err)
			require.Equal(t, c.want, *s.region.Load())
		})
	}
	t.Run("an endpoint of the AWS settings", func(t *testing.T) {
		settings(t, map[string]string{"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_REGION": "us-west-2"})
		s, err := Open(t.Context(), Config{Bucket: "b"})
		require.NoError(t, err)
		require.Equal(t, "auto", *s.region.Load())
	})
}

func TestABucketOnAWSWithoutARegionIsRefused(t *testing.T) {
	settings(t, nil)
	_, err := Open(t.Context(), Config{Bucket: "b"})
	require.ErrorContains(t, err, "set AWS_REGION")
	_, err = Open(t.Context(), Config{Bucket: "b", Region: "auto"})
	require.ErrorContains(t, err, "set AWS_REGION")
}

// answers is an HTTP client that answers requests itself.
type answers func(*http.Request) *http.Response

func (f answers) Do(r *http.Request) (*http.Response, error) { return f(r), nil }

// onAWS opens a bucket on AWS. answer handles its requests.
func onAWS(t *testing.T, region string, answer answers) *Store {
	t.Helper()
	settings(t, nil)
	s, err := Open(t.Context(), Config{Bucket: "b", Region: region})
	require.NoError(t, err)
	s.client = s3.New(s.client.Options(), func(o *s3.Options) { o.HTTPClient = recorder{answer} })
	return s
}

func TestABucketOnAWSIsMadeInItsRegion(t *testing.T) {
	for region, want := range map[string]string{"us-east-1": "", "eu-west-3": "<LocationConstraint>eu-west-3</LocationConstraint>"} {
		var host, sent string
		s := onAWS(t, region, func(r *http.Request) *http.Response {
			host = r.URL.Host
			if r.Body != nil {
				all, _ := io.ReadAll(r.Body)
				sent = string(all)
			}
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
		})
		require.NoError(t, s.CreateBucket(t.Context()))
		require.Equal(t, "s3."+region+".amazonaws.com", host)
		require.Contains(t, sent, want)
		require.Equal(t, want == "", sent == "")
	}
}

// AWS answers a request to the wrong region with a redirect that names the right one.
func TestARedirectOfAWSNamesTheRegion(t *testing.T) {
	s := onAWS(t, "us-west-2", func(r *http.Request) *http.Response {
		body := "<Error><Code>PermanentRedirect</Code></Error>"
		if r.Method == http.MethodHead {
			body = ""
		}
		return &http.Response{
			StatusCode: http.StatusMovedPermanently, Header: http.Header{"X-Amz-Bucket-Region": {"eu-west-3"}},
			Body: io.NopCloser(strings.NewReader(body)),
		}
	})
	_, err := s.Head(t.Context(), "k")
	require.ErrorContains(t, err, "access denied")
	require.ErrorContains(t, err, "set region=eu-west-3 in NEURONMILL_STORE_URL")
}
