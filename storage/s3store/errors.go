package s3store

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/neuronmill/neuronmill/storage"
)

// noSuchKey is the S3 error code of a missing object. Other answers with status 404
// concern the bucket or the credentials, or come from a server that is not an S3 service.
const noSuchKey = "NoSuchKey"

// permissions names the permissions that neuronmill needs.
const permissions = "the credentials need GetObject, PutObject, DeleteObject and ListBucket"

const checkKeys = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the region"

// denials maps the error codes of refused access to the fix.
var denials = map[string]string{ //nolint:gosec // names of errors, no credentials
	"InvalidAccessKeyId":    checkKeys,
	"SignatureDoesNotMatch": checkKeys,
	"InvalidSecurity":       checkKeys,
	"Unauthorized":          checkKeys,
	"XAdminUserNotFound":    checkKeys, // versitygw, with the status 404
	"AccessDenied":          permissions,
	"AllAccessDisabled":     "the service has disabled access to the bucket",
	"AccountProblem":        "the account has a problem: ask the service",
	"NotSignedUp":           "the account is not signed up for the service",
	"ExpiredToken":          "AWS_SESSION_TOKEN has expired: renew the credentials",
	"InvalidToken":          "AWS_SESSION_TOKEN is not valid: renew the credentials",
	"TokenRefreshRequired":  "AWS_SESSION_TOKEN has to be renewed",
	"RequestTimeTooSkewed":  "the clock here is off that of the service: set it by NTP",
	"RequestExpired":        "the clock here is off that of the service: set it by NTP",
	badRegion:               "the region is wrong",
	"PermanentRedirect":     "the region is wrong",
}

const badRegion = "AuthorizationHeaderMalformed"

// explain adds to an error of the SDK the operation, the matching sentinel of package
// storage and, if known, the fix.
func (s *Store) explain(verb, key string, err error) error {
	code, status := codeOf(err), statusOf(err)
	advice, denied := denials[code]
	if !denied && (status == http.StatusUnauthorized || status == http.StatusForbidden) {
		advice, denied = checkKeys+"; "+permissions, true
	}
	if region := regionOf(err); denied && region != "" && region != *s.region.Load() {
		advice = fmt.Sprintf("the bucket is in the region %s: set region=%s in NEURONMILL_STORE_URL", region, region)
	}
	switch {
	case code == "NoSuchBucket":
		return fmt.Errorf("%s %s: %w: create %s (neuronmill doctor --create-bucket does), or fix NEURONMILL_STORE_URL", verb, key, storage.ErrNoBucket, s.config.Bucket)
	case code == noSuchKey:
		return fmt.Errorf("%s %s: %w", verb, key, storage.ErrNotFound)
	case denied:
		return fmt.Errorf("%s %s: %w: the bucket refuses the request (%s): %s", verb, key, storage.ErrDenied, codeOrStatus(code, status), advice)
	case status == http.StatusNotFound && code != "NoSuchUpload":
		return fmt.Errorf("%s %s: %s answers 404 and not that the object is missing: check that it is an S3 service: %w", verb, key, s.config, err)
	}
	if _, ok := errors.AsType[*v4.SigningError](err); ok || strings.Contains(err.Error(), "get credentials") {
		return fmt.Errorf("%s %s: %w: there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role of the AWS chain", verb, key, storage.ErrDenied)
	}
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
		return fmt.Errorf("%s %s: %s cannot be reached: start it, or fix NEURONMILL_STORE_URL: %w", verb, key, s.config, dial)
	}
	return fmt.Errorf("%s %s: %w", verb, key, err)
}

func codeOrStatus(code string, status int) string {
	if code == "" {
		return fmt.Sprint(status)
	}
	return code
}

// codeOf returns the S3 error code of an answer, or "". For answers without a body, the
// SDK derives codes from the status.
func codeOf(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}

// statusOf returns the HTTP status of an error answer, or 0.
func statusOf(err error) int {
	if resp, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		return resp.HTTPStatusCode()
	}
	return 0
}
