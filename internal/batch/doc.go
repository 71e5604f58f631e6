// Package batch runs files of many lines. A batch is a producer: it uses package tasks as
// any backend does, and knows neither workers nor the gate.
//
// Accept reads a file twice. The first pass validates every line, counts, and identifies
// the content; the second one cuts it into segments in the bucket. A segment holds up to
// 1,000 lines in the native form, each with the number of its chunk. A chunk is the work
// of one ordinary task: the texts of many lines for embeddings, one line for other kinds.
//
// Drive enqueues a window of chunks at a time, so that Redis and memory stay flat whatever
// the size of the file. The id of a task is derived from batch, round, segment and chunk:
// enqueuing it again finds the task or its result, and pays nothing. When all chunks of a
// segment have ended, its output lines are written create-only as a shard. A driver that
// dies is replaced by another one, which continues at the first segment without a shard.
//
// A line that equals an earlier one, within the last repeatWindow different lines, has no
// chunk: its segment names the place of the first one. Its output is copied from there,
// out of the shard by the directory in the shard's first line. The shard of a segment is
// written after those of the segments that its lines repeat.
//
// With AcceptOptions.Reuse, lines get the output of earlier batches of the tenant. Accept
// looks for them in the indexes of these, and the segment names the part of the shard. A
// line whose part is gone when it is needed runs as a task of its own. A Sample is a batch of
// some lines of a file, whose results the next batches take without Reuse, too.
//
// Objects of a batch, below <tenant>/batches/<id>/:
//
//	batch.json              the definition with its upload, create-only, written after all segments
//	segments/<upload>/00000007.jsonl the lines of a segment; each attempt has an upload of its own
//	shards/0/00000007.jsonl the output of a segment in a round, create-only
//	rounds/1.json           a retry of the lines that failed in the round before
//	cancel/0.json           a person cancelled the round
//	ends/0.json             the counts of a round that has ended, create-only
//	output.jsonl            the output in the order of the input
//
// <tenant>/batches/index/<day>/<id>/<round>/<group> says which lines the shards of a group of
// 64 segments answer; for samples the folder is samples/.
//
// <tenant>/batches/expiring/<time>-<id> marks a batch that a sweep deletes, see
// AcceptOptions.Keep.
//
// <tenant>/batches/pending/<id>.json marks a batch that workers drive. It is deleted after
// the end of the round is written.
package batch
