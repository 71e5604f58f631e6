// Package ui serves the dashboard: pages of HTML that are rendered here, with charts as
// SVG, one style sheet and a little script. It is a surface like any other: it uses
// tasks.Client, and what packages monitor, index, batch and history know. It reads counters
// and bounded lists only, so that looking at a fleet costs the fleet nothing.
//
// A page has a live part, which the server renders once a second for all watchers
// together. It is sent by server-sent events when it has changed. Without JavaScript a page
// shows the same, as of when it was loaded. Every state of a page is in its URL.
package ui
