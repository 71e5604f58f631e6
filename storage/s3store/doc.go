// Package s3store stores objects in a bucket of any S3-compatible service.
//
// # Open a bucket
//
// [Open] takes a [Config]; [ParseURL] reads one from a URL, as the command line does:
//
//	config, err := s3store.ParseURL("s3://results?endpoint=http://127.0.0.1:9000&path_style=true")
//	...
//	store, err := s3store.Open(ctx, config)
//
// Credentials come from the AWS chain: environment, shared files, instance roles.
//
// # Requirements of the service
//
// It uses only features that all services support, Cloudflare R2 included: whole bodies
// with length and hash, no trailing checksums, no tags. Put sends small objects in one
// request and larger ones in parts of equal size. Create always sends one conditional
// request, because some services ignore the condition on a multipart upload.
//
// # Leftovers
//
// A process that crashes during a multipart upload leaves its parts in the bucket. A
// lifecycle rule removes them (AbortIncompleteMultipartUpload; R2 has one by default).
package s3store
