// Package errtext finds out which messages of errors say the same.
package errtext

import "regexp"

// particular matches what differs from one error to the next: the ids of requests, also one
// that is cut off at the end, quoted text, and numbers.
var particular = regexp.MustCompile(`[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{8}-[0-9a-fA-F-]{0,26}$|"[^"]*"|[0-9]+`)

// Normal returns the form in which messages are compared: errors with the same one have the
// same cause.
func Normal(message string) string { return particular.ReplaceAllString(message, "") }
