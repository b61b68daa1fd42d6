// Package control serves processor.Control over NATS: a micro service that anybody with the nats command line can ask, the events
// of jobs, and the permissions that each role needs.
//
//	nats req weir.v1.acme.wordcount.savepoint '{"name":"before-upgrade"}'
//	nats req weir.v1.acme._.jobs ''           # a tenant's verbs have _ in the place of the job
//	nats req weir.v1._._.tenants ''           # global verbs have _ in the place of the tenant, too
//	nats micro info weir                      # endpoints, each with its request and response schema
//	nats sub 'weir.evt.acme.>'
//
// # Answers
//
// A request is a JSON object, and nothing at all is one with every field at its default. The answer is a JSON object. A refusal has
// the micro headers Nats-Service-Error-Code (400 wrong request, 403 not permitted, 404 unknown, 409 conflict or not running, 422
// incompatible, 429 too much, 500 tried and failed, 503 nobody answers for now) and Nats-Service-Error, and the body
// {"reason": …, "message": …}, whose reason is a processor.Reason.
//
// checkpoint, savepoint, stop, start, rescale, fork and delete answer when the work is done, which takes seconds or, behind a full
// stream, minutes. nats req waits 5 seconds: give it --timeout, or ask with "wait": false, which answers as soon as the request was
// not refused at once, and tells the outcome as the event request. The request goes on when its caller has stopped waiting.
//
// Lists take "limit" and "after", and answer with "next" where there is more.
//
// # Invariants
//
// A request is looked at before any work is done for it: it came on the endpoint's own subject, its reply subject is an inbox, and
// size, rate, form and names are right. One whose reply subject is no inbox is neither answered nor carried out: the answer would be
// a message that somebody else publishes with this service's permissions.
//
// Any worker takes a request; one that does not own the job hands it to the process that does, on a subject that only workers may
// use, and at most once. While the owner works it says so every few seconds: one that falls silent is an answer, not a wait.
//
// A tenant-wide savepoint is there for every job or for none, and for each stream that several of them read, all were cut at the
// same position (savepoint_all.go).
//
// A tenant that floods the service is refused by a bucket of its own; requests for tenants nobody knows share one. What is under way
// is bounded, for each tenant and in all.
//
// # The caller's duties
//
// Close the service before the runtime that carries it out and before the connection is closed. Give it a connection of its own
// (jetstream.Service), so that requests stand in no commit's way.
//
// Requests from other accounts come through service imports, whose reply subjects begin with _R_.: they are refused unless
// Config.InboxPrefixes has that prefix, since in the other account the answer goes wherever the caller wants it.
//
// # What it refuses
//
// It decides nothing of its own: what a job can do is processor.Control's matter. It keeps nothing: a request under way when its worker
// dies is told to the caller as unknown, and asking status says what came of it.
package control
