// Package fsstore stores objects in a folder, one file each. It is the default bucket.
// [Open] creates the folder; several processes may use it at once.
//
// # Files
//
// The key "a/b.txt" is the file a/b.txt, so that people can find their results.
// Characters that file systems treat differently are escaped as %XX. A ".type" file holds
// the content type if it differs from that of the extension. An object and others below
// its name, "a" and "a/b", cannot both exist.
//
// # The folder .writing
//
// The folder .writing holds unfinished files and marks the folder as a bucket. If it is
// missing, for example on a disk that is not mounted, the bucket is missing.
package fsstore
