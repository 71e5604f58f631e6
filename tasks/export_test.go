package tasks

// DeadLetterOf returns the dead-letter entry of a failed result.
var DeadLetterOf = deadLetterOf
