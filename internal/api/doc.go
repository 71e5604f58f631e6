// Package api is the HTTP interface, with which a web backend in any language can submit
// tasks and to follow them. It is a producer like any other and uses package tasks.
//
// # Adding routes
//
// A surface is a file with one method on Server that registers its routes; Server.routes
// lists these methods. There are two ways to register:
//
//   - jsonRoute, for a route whose body and answer are JSON. Its types make the OpenAPI
//     document, so the document cannot disagree with the code.
//   - Server.handle, for a route that streams or has an envelope of its own. Its operation
//     only documents it. Such an operation must not give a request body a schema other than
//     a binary string; huma never reads the body of these routes.
//
// Both names a scope. The request has passed authentication, the limits of its key and the
// checks of its headers before the handler runs, and callerOf tells who calls. A handler
// returns or writes a *Problem, made by newProblem or problemOf. A handler that waits or
// streams ends early when Server.stopping is closed.
package api
